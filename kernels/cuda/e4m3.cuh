// e4m3.cuh: fp8.h's codes on the device. Rounding is integer arithmetic on the bits of a float, as in
// fp8_simd.cc: dropping 20 of its 23 mantissa bits for normal codes, adding 2^14, whose last place is 2^-9,
// for the denormal ones.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/mma.cuh"

namespace guildhall {

// Infinity and NaN have all exponent bits set.
__device__ inline bool is_finite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

__device__ inline uint8_t to_e4m3(float x, float inverse_scale) {
  const uint32_t sign = std::bit_cast<uint32_t>(x) >> 24 & 0x80u;
  if (!is_finite(x)) return static_cast<uint8_t>(sign | 0x7fu);
  const float magnitude = fminf(fabsf(x * inverse_scale), 448.0f);
  if (magnitude < 0x1p-6f) {
    const float magic = 16384.0f;
    return static_cast<uint8_t>(
        sign | (std::bit_cast<uint32_t>(magnitude + magic) - std::bit_cast<uint32_t>(magic)));
  }
  const uint32_t u = std::bit_cast<uint32_t>(magnitude);
  return static_cast<uint8_t>(sign | (((u + 0x7ffffu + (u >> 20 & 1u)) >> 20) - ((127 - 7) << 3)));
}

// A NaN keeps its sign, which a product need not on a device.
__device__ inline float from_e4m3(uint8_t code, float scale) {
  const uint32_t sign = (code & 0x80u) << 24, magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  const float value = magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f
                                    : std::bit_cast<float>((magnitude << 20) + ((127u - 7u) << 23));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign) * scale;
}

// Two codes, bytes 2 * pair and 2 * pair + 1 of a word, as two bf16, exact; neither is a NaN (loading a
// checkpoint sees to it). A code's bits, spread, are those of a bf16 whose exponent counts from 127 instead
// of 7.
__device__ inline uint32_t e4m3_pair_to_bf16(uint32_t codes, int pair) {
#ifdef GUILDHALL_CUDA_EMULATED
  const uint32_t two = codes >> (16 * pair);
  const uint32_t spread = (two & 0xffu) << 8 | (two & 0xff00u) << 16;
#else
  const uint32_t spread = __byte_perm(codes, 0, pair == 0 ? 0x1404 : 0x3424);
#endif
  const uint32_t small = (spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u);
#ifdef GUILDHALL_CUDA_EMULATED
  return pack_bf16(low_bf16(small) * 0x1p120f, high_bf16(small) * 0x1p120f);
#else
  uint32_t exact;  // small * 2^120 - 0
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(exact) : "r"(small), "r"(0x7b807b80u), "r"(0x80008000u));
  return exact;
#endif
}

}  // namespace guildhall
