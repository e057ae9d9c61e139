// device_language.h: built-in variables and functions of CUDA's device language, for the host emulation.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tests/emulation/emulator.h"

#define threadIdx (::guildhall::emulation::thread_index())
#define blockIdx (::guildhall::emulation::block_index())
#define blockDim (::guildhall::emulation::block_size())
#define gridDim (::guildhall::emulation::grid_size())
inline constexpr int warpSize = 32;

// --- Barriers
inline void __syncthreads() { guildhall::emulation::sync_block(); }
inline int __syncthreads_count(int predicate) {
  return guildhall::emulation::sync_block_count(predicate != 0);
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { guildhall::emulation::gather_lanes(mask, char{}); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// --- Warp operations. Lanes are those of the whole warp, or of segments of `width`.
template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const auto self = static_cast<int>(guildhall::emulation::lane());
  return guildhall::emulation::gather_lanes(
      mask, value)[static_cast<size_t>(self / width * width + source % width)];
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32) {
  const auto self = static_cast<int>(guildhall::emulation::lane());
  const int source = self ^ lanes;
  const auto all = guildhall::emulation::gather_lanes(mask, value);
  return source / width == self / width ? all[static_cast<size_t>(source)] : value;
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const auto self = static_cast<int>(guildhall::emulation::lane());
  const int source = self + static_cast<int>(delta);
  const auto all = guildhall::emulation::gather_lanes(mask, value);
  return source / width == self / width ? all[static_cast<size_t>(source)] : value;
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const auto self = static_cast<int>(guildhall::emulation::lane());
  const int source = self - static_cast<int>(delta);
  const auto all = guildhall::emulation::gather_lanes(mask, value);
  return source >= 0 && source / width == self / width ? all[static_cast<size_t>(source)] : value;
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  const auto all = guildhall::emulation::gather_lanes(mask, static_cast<char>(predicate != 0));
  uint32_t ballot = 0;
  for (uint32_t i = 0; i < 32; ++i) ballot |= static_cast<uint32_t>(all[i] != 0) << i;
  return ballot;
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) {
  return __ballot_sync(mask, predicate) == (mask & guildhall::emulation::warp_mask());
}

// --- Atomics: operations of a thread run undisturbed between its meetings with others.
template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <class T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
template <class T>
T atomicMin(T* address, T value) {
  const T old = *address;
  if (value < old) *address = value;
  return old;
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
template <class T>
T atomicExch(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}

// --- Numbers
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
template <class T>
T __ldg(const T* address) {
  return *address;
}
using std::max, std::min;
