// warp.cuh: reductions over a warp and over a block. All threads call them together; the order of additions
// is fixed by the number of threads alone.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace guildhall {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

// Every lane gets the result. `merge` is commutative.
template <class T, class Merge>
__device__ T warp_reduce(T value, Merge merge) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    value = merge(value, __shfl_xor_sync(kFullWarp, value, lanes));
  return value;
}
__device__ inline float warp_sum(float value) {
  return warp_reduce(value, [](float a, float b) { return a + b; });
}
__device__ inline float warp_max(float value) {
  return warp_reduce(value, [](float a, float b) { return fmaxf(a, b); });
}

// Every thread of a block of whole warps gets the result; `empty` is merge's neutral element. May be called
// again at once.
template <class T, class Merge>
__device__ T block_reduce(T value, T empty, Merge merge) {
  GH_SHARED(T, of_warp, [kWarp]);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_reduce(value, merge);
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < num_warps ? of_warp[lane] : empty, merge);
  __syncthreads();  // of_warp is free again
  return value;
}
__device__ inline float block_sum(float value) {
  return block_reduce(value, 0.0f, [](float a, float b) { return a + b; });
}

}  // namespace guildhall
