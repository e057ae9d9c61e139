// kernel_run.h: runs one kernel to its end, on the calling thread. For the emulator's own use.
#pragma once

#include "tests/emulation/emulator.h"

namespace guildhall::emulation {

void run_kernel(const KernelShape& shape, const std::function<void()>& body);

}  // namespace guildhall::emulation
