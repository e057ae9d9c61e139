// choice.cuh: a value and its index as one integer, so that the largest integer is the largest value, ties to
// the lowest index.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace guildhall {

using Choice = unsigned long long;  // what CUDA's max and atomics know 64 bits by

inline constexpr Choice kNoChoice = 0;  // below every choice, that of -inf too

// Larger values have larger orders; -0 counts as 0. For numbers and infinities.
__device__ inline uint32_t order_of(float value) {
  const auto u = std::bit_cast<uint32_t>(value + 0.0f);
  return u >> 31 != 0 ? ~u : u | 0x80000000u;
}
__device__ inline Choice make_choice(float value, int64_t index) {
  return Choice{order_of(value)} << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}
__device__ inline int64_t index_of(Choice choice) { return 0xffffffffu - static_cast<uint32_t>(choice); }
__device__ inline float value_of(Choice choice) {
  const auto order = static_cast<uint32_t>(choice >> 32);
  return std::bit_cast<float>(order >> 31 != 0 ? order & 0x7fffffffu : ~order);
}

}  // namespace guildhall
