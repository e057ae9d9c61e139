// rows.cuh: what kernels that work through rows element by element share: loads and stores of up to 16 bytes,
// and how rows are shared among blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/dtype.h"
#include "kernels/view.h"

namespace guildhall {

// N neighbouring elements, moved by as few instructions as their alignment allows.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T v[N];
};

#if defined(GUILDHALL_CUDA_EMULATED)
// A device faults there.
template <class P>
void check_aligned(const void* p) {
  GH_CHECK(reinterpret_cast<uintptr_t>(p) % alignof(P) == 0);
}
#else
template <class P>
__device__ void check_aligned(const void*) {}
#endif

template <int N, class T>
__device__ Pack<T, N> load_pack(const T* p) {
  check_aligned<Pack<T, N>>(p);
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ void store_pack(T* p, const Pack<T, N>& pack) {
  check_aligned<Pack<T, N>>(p);
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// Whether packs of N elements tile `size` elements from p on.
template <int N, class T>
bool packs_fit(const T* p, int64_t size) {
  return size % N == 0 && reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, N>) == 0;
}
template <int N, class T>
bool packs_fit(View2<T> x) {
  return packs_fit<N>(x.data, x.cols) && x.stride % N == 0;
}
template <int N, class T>
bool packs_fit(View3<T> x) {
  return packs_fit<N>(x.data, x.dim2) && x.stride0 % N == 0 && x.stride1 % N == 0;
}

// blockIdx.x is the row; blockIdx.y shares its packs where rows are too few to fill a device.
struct RowGrid {
  dim3 grid;
  unsigned threads = 0;
};
inline RowGrid row_grid(int64_t rows, int64_t packs) {
  constexpr int64_t kBlocksWanted = 1024, kMaxThreads = 256;  // some 8 blocks for each of 132 processors
  const int64_t threads = std::clamp((packs + 31) / 32 * 32, int64_t{32}, kMaxThreads);
  const int64_t shares = std::min((packs + threads - 1) / threads, (kBlocksWanted + rows - 1) / rows);
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(std::max(shares, int64_t{1}))),
          static_cast<unsigned>(threads)};
}

// Calls body(i) for this thread's share of the row's packs i in [0, packs).
template <class Body>
__device__ void for_packs(int64_t packs, Body body) {
  for (int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; i < packs;
       i += int64_t{gridDim.y} * blockDim.x)
    body(i);
}

}  // namespace guildhall
