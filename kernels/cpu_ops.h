// cpu_ops.h: Ops by the CPU's kernels and a team of threads.
#pragma once

#include "kernels/ops.h"

namespace guildhall {

// `memory` is borrowed, and the host's.
std::unique_ptr<Ops> make_cpu_ops(TeamOptions team, DeviceMemory& memory = host_memory());

}  // namespace guildhall
