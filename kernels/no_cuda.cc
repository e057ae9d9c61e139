// no_cuda.cc: cuda_ops.h in a build without CUDA.
#include <fmt/format.h>

#include "kernels/cuda/cuda_ops.h"

namespace guildhall {

Result<std::unique_ptr<Ops>> make_cuda_ops(int index, const CudaOpsOptions&) {
  return Status{Code::unsupported, fmt::format("cuda:{}: this build has no CUDA; use cpu, or build where "
                                               "the CUDA toolkit is",
                                               index)};
}

int num_cuda_devices() { return 0; }

}  // namespace guildhall
