// sampling_weight.h: the integer weight of a token, the common ground of sample_ref, sample_cpu and
// sample_cuda.
// A weight is exp((logit - max) / temperature) in units of 2^-40, truncated. Sums of integers do not depend
// on their order, so the three agree on every cumulative sum although only sample_ref sorts the
// vocabulary. 2^23 tokens of the largest weight still fit 63 bits; a token less likely than 2^-40 times the
// best, or than min_p times the best, is dropped.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/host_device.h"
#include "kernels/cuda/rounding.h"

namespace guildhall {

inline constexpr float kSamplingUnit = 1099511627776.0f;  // 2^40

// e^x for x <= 0, in multiplications and additions only (nothing fused), so that sampling_simd.cc repeats it
// bit by bit in any instruction set; within 3e-7 relative. Below -30 (and for NaN) the weight is zero anyway.
GH_HOST_DEVICE inline float sampling_exp(float x) {
  x = x > -30.0f ? x : -30.0f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const auto mul_add = [](float a, float b, float c) { return add_rounded(mul_rounded(a, b), c); };
  const float shifted = mul_add(x, 1.44269504f, magic);
  const float n = shifted - magic;
  // ln2 in two parts; the first product is exact
  const float r = mul_add(n, 2.12194440e-4f, mul_add(n, -0.693359375f, x));
  float p = 1.0f / 5040;
  p = mul_add(p, r, 1.0f / 720);
  p = mul_add(p, r, 1.0f / 120);
  p = mul_add(p, r, 1.0f / 24);
  p = mul_add(p, r, 1.0f / 6);
  p = mul_add(p, r, 0.5f);
  p = mul_add(p, r, 1.0f);
  p = mul_add(p, r, 1.0f);
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(magic) + 127u) << 23;
  return p * std::bit_cast<float>(power);
}

// The best token's own logit has weight one even where it is infinite.
GH_HOST_DEVICE inline float sampling_probability(float logit, float max, float inverse_temperature) {
  return logit == max ? 1.0f : sampling_exp((logit - max) * inverse_temperature);
}

GH_HOST_DEVICE inline uint64_t sampling_weight(float probability) {
  return static_cast<uint64_t>(static_cast<int64_t>(probability * kSamplingUnit));
}

// A token must be this likely, relative to the best, or it is dropped.
GH_HOST_DEVICE inline float least_probability(float min_p) { return std::max(min_p, 1 / kSamplingUnit); }

// How many units of the total the nucleus must reach: the least integer >= top_p * total, within [1, total].
GH_HOST_DEVICE inline uint64_t nucleus_mass(float top_p, uint64_t total) {
  if (top_p >= 1) return total;
  const double mass = std::ceil(static_cast<double>(top_p) * static_cast<double>(total));
  return std::clamp<uint64_t>(static_cast<uint64_t>(std::max(mass, 1.0)), 1, total);
}

// u scaled to [0, total).
GH_HOST_DEVICE inline uint64_t target_mass(double u, uint64_t total) {
  return std::min(static_cast<uint64_t>(u * static_cast<double>(total)), total - 1);
}

}  // namespace guildhall
