// fp8_simd.h: vectors of floats to vectors of 8-bit codes. Rounding to e4m3 is integer arithmetic on the bits
// of a float: dropping 20 of its 23 mantissa bits for normal codes, adding 2^14, whose last place is 2^-9,
// for the denormal ones.
#pragma once

#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

GH_INLINE Vu mask(Vi comparison) { return reinterpret_cast<Vu>(comparison); }
GH_INLINE Vu splat_u(uint32_t x) { return x - Vu{}; }

// The lowest byte of each lane, of the first n lanes.
GH_INLINE void store_codes(uint8_t* p, Vu code, int64_t n) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  typedef uint8_t BytesLoose __attribute__((vector_size(kLanes), aligned(1), may_alias));
  const Bytes b = __builtin_convertvector(code, Bytes);
  if (n >= kLanes) {
    *reinterpret_cast<BytesLoose*>(p) = b;
    return;
  }
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = b[i];
}

GH_INLINE Vf load_some(const float* p, int64_t n) { return n >= kLanes ? load(p) : load_n(p, n); }

// Infinity and NaN have all exponent bits set.
GH_INLINE Vu is_finite(Vu bits) { return mask((bits & 0x7f800000u) != 0x7f800000u); }

GH_INLINE Vu to_e4m3(Vf x, Vf inverse) {
  const Vu bits = vf_to_bits(x);
  const Vu finite = is_finite(bits);
  const Vf magnitude = min(bits_to_vf(vf_to_bits(x * inverse) & 0x7fffffffu & finite), splat(448.0f));
  const Vu u = vf_to_bits(magnitude);
  const Vu normal = ((u + 0x7ffffu + ((u >> 20) & 1u)) >> 20) - ((127 - 7) << 3);
  const Vf magic = splat(16384.0f);
  const Vu denormal = vf_to_bits(magnitude + magic) - vf_to_bits(magic);
  const Vu is_denormal = mask(magnitude < splat(0x1p-6f));
  const Vu code = (denormal & is_denormal) | (normal & ~is_denormal);
  return (code & finite) | (splat_u(0x7f) & ~finite) | ((bits >> 24) & 0x80u);
}

}  // namespace guildhall::GH_ISA_NS
