// launch.cuh: the one way kernels are started and shared memory is declared, so that the same source compiles
// for the device and for the host emulation of the tests. Only .cu files include this.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <tuple>

namespace guildhall {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) [[likely]]
    return;
  std::fprintf(stderr, "%s: %s (%s)\n", what, cudaGetErrorString(error), cudaGetErrorName(error));
  std::abort();
}

inline constexpr size_t kDefaultDynamicShared = 48 << 10;  // more must be asked for, kernel by kernel

#if defined(GUILDHALL_CUDA_EMULATED)

// GH_SHARED(float, tile, [8][33]); declares __shared__ float tile[8][33].
#define GH_SHARED(type, name, ...)             \
  typedef type name##_shared_t __VA_ARGS__;    \
  static const char name##_place = 0;          \
  auto& name = *static_cast<name##_shared_t*>( \
      ::guildhall::emulation::static_shared(&name##_place, sizeof(name##_shared_t)))
// GH_DYNAMIC_SHARED(float, rows); declares the launch's shared_bytes as float* rows, aligned to 16 bytes.
#define GH_DYNAMIC_SHARED(type, name) \
  type* name = static_cast<type*>(::guildhall::emulation::dynamic_shared())

// kernel<<<grid, block, shared_bytes, stream>>>(args...)
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A&&... args) {
  emulation::enqueue_kernel(
      stream, {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, __PRETTY_FUNCTION__},
      [kernel, bound = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, bound); });
}

#else

#define GH_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define GH_DYNAMIC_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char guildhall_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(guildhall_dynamic_shared)

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A&&... args) {
  if (shared_bytes > kDefaultDynamicShared)
    check_cuda(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(args)...);
  // clang-format on
  check_cuda(cudaGetLastError(), "kernel launch");
}

#endif

}  // namespace guildhall
