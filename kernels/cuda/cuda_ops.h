// cuda_ops.h: Ops on one GPU. Kernels run in order on the compute stream; a step's transfers on the
// communication stream, which events order behind what came before; weights on a copy stream of their own.
#pragma once

#include "kernels/ops.h"

namespace guildhall {

struct CudaOpsOptions {
  TeamOptions team;    // the host's threads beside the device
  bool record = true;  // decode steps as CUDA graphs; without, each kernel is launched every time
};

// unsupported, saying what the machine has and what would work, when device `index` cannot be used.
Result<std::unique_ptr<Ops>> make_cuda_ops(int index, const CudaOpsOptions& options);

// Devices that this machine has for this build; 0 also where there is no driver.
int num_cuda_devices();

}  // namespace guildhall
