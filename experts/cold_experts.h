// cold_experts.h: where the experts of an offloading worker are while they are not in its device's memory,
// and how one comes there: from the checkpoint (disk), or from a GPU's host (host). One owner thread at a
// time.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/status.h"
#include "experts/experts_of_layer.h"
#include "model/expert_layout.h"
#include "model/spec.h"
#include "model/weights.h"

namespace guildhall {

struct ExpertLoaderOptions;  // expert_loader.h

enum class OffloadMode { none, disk, host };
Result<OffloadMode> parse_offload_mode(std::string_view name);

class ColdExperts {
 public:
  virtual ~ColdExperts() = default;

  // Into the device's memory.
  virtual Result<ExpertPtr> bring(int64_t layer, int64_t expert) = 0;

  int64_t slot_bytes() const { return slot_bytes_; }  // of the model's largest expert
  int64_t num_slots() const { return num_slots_; }    // that the memory limit has room for

 protected:
  ColdExperts(int64_t slot_bytes, int64_t num_slots) : slot_bytes_(slot_bytes), num_slots_(num_slots) {}

 private:
  const int64_t slot_bytes_, num_slots_;
};

// Room for one expert that is computed, and for one that comes meanwhile.
inline constexpr int64_t kFewestSlots = 2;

// As options.offload says, of these experts. Refuses a memory limit below kFewestSlots, more than a device
// has free, host memory for a device that is the host, and a checkpoint that lacks an expert. Where the host
// keeps them, they are read here. `spec` and the options' device are borrowed.
Result<std::unique_ptr<ColdExperts>> open_cold_experts(const ExpertLoaderOptions& options,
                                                       const ModelSpec& spec, const ExpertsOfLayer& experts_l,
                                                       LoadProgress& progress);
// Those of its refusals that need no more than these.
Result<void> check_offload_memory(const ModelSpec& spec, int64_t limit);
Result<void> check_offload_device(OffloadMode mode, const DeviceMemory& device);

}  // namespace guildhall
