// expert_layout.h: how one routed expert lies in memory, the same on every instruction set and device: gate,
// up and down as the checkpoint has them, of e4m3 each with its scales behind it, every part at a multiple of
// 64 bytes with zeros in between. So these are also the bytes by which one worker gives an expert to another.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "kernels/dtype.h"
#include "kernels/expert_ffn.h"
#include "model/arena.h"
#include "model/spec.h"

namespace guildhall {

class LoadPlan;  // load_plan.h

// One expert and the device memory it is in, which goes with the last reference. Any thread may read.
struct ExpertWeights {
  ExpertWeightView view;
  Arena memory;
};
using ExpertPtr = std::shared_ptr<const ExpertWeights>;

// What one takes whose matrices are of this type.
int64_t expert_bytes(const ModelSpec& spec, DType dtype);
// The same of what the checkpoint declares; for planning and memory limits.
int64_t expert_bytes(const ModelSpec& spec);

// Adds one expert's matrices to a plan. They are of one type: e4m3 or bf16 when all its tensors are.
Result<void> plan_expert(LoadPlan& plan, const ModelSpec& spec, int64_t layer, int64_t expert,
                         ExpertWeightView* out);

// An expert in the device's memory from its bytes, which are in the host's: expert_bytes(spec, dtype) of
// them. On the CPU it keeps them where they are.
Result<ExpertPtr> adopt_expert(const ModelSpec& spec, DType dtype, Arena bytes, DeviceMemory& device);
// A copy in the device's memory of one that is in the host's.
Result<ExpertPtr> copy_expert(const ModelSpec& spec, const ExpertWeights& host, DeviceMemory& device);

}  // namespace guildhall
