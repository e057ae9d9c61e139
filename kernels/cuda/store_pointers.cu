#include "kernels/cuda/store_pointers.h"

#include <algorithm>

#include "kernels/cuda/launch.cuh"

namespace guildhall {
namespace {

constexpr unsigned kPointersPerLaunch = 256;
struct Pointers {
  const void* p[kPointersPerLaunch];
};

__global__ void store_kernel(Pointers pointers, unsigned count, const void** to) {
  if (threadIdx.x < count) to[threadIdx.x] = pointers.p[threadIdx.x];
}

}  // namespace

void store_pointers_cuda(CudaStream stream, std::span<const void* const> pointers, const void** to) {
  for (size_t begin = 0; begin < pointers.size(); begin += kPointersPerLaunch) {
    const auto count = static_cast<unsigned>(std::min<size_t>(kPointersPerLaunch, pointers.size() - begin));
    Pointers some = {};
    std::copy_n(pointers.begin() + static_cast<std::ptrdiff_t>(begin), count, some.p);
    launch(store_kernel, 1, kPointersPerLaunch, 0, stream, some, count, to + begin);
  }
}

}  // namespace guildhall
