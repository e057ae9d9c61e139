// make_ops.h: Ops for a device by its name in the configuration.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.h"

namespace guildhall {

// `device` is auto (the first CUDA device if this build and this machine have one that can be used, else the
// CPU), cpu, cuda (the first) or cuda:N. The error says what is missing and what would work; who calls says
// whose key it is.
Result<std::unique_ptr<Ops>> make_ops(std::string_view device, TeamOptions team);

// The devices of several ranks where `device` is the first's: of GPUs those that follow it, each its own.
// auto: GPUs if there are enough and they can meet (NCCL is there), else the CPU for all. One rank: `device`.
std::vector<std::string> rank_devices(std::string_view device, int num_ranks, bool gpus_meet);

}  // namespace guildhall
