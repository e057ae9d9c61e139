// fp8_simd.cc: one group of e4m3 codes, a vector at a time. Rounding is integer arithmetic on the bits of a
// float: dropping 20 of its 23 mantissa bits for normal codes, adding 2^14, whose last place is 2^-9, for the
// denormal ones.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {
namespace {

typedef uint8_t Vb __attribute__((vector_size(kLanes)));  // kLanes codes
typedef uint8_t VbLoose __attribute__((vector_size(kLanes), aligned(1), may_alias));

GH_INLINE Vu mask(Vi comparison) { return reinterpret_cast<Vu>(comparison); }
GH_INLINE Vu splat_u(uint32_t x) { return x - Vu{}; }

GH_INLINE void store_codes(uint8_t* p, Vu code, int64_t n) {
  const Vb b = __builtin_convertvector(code, Vb);
  if (n >= kLanes) {
    *reinterpret_cast<VbLoose*>(p) = b;
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

}  // namespace

// Writes the group's codes, returns its scale.
float to_fp8_group(const float* x, int64_t n, uint8_t* code) {
  Vf amax = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vu bits = vf_to_bits(load_some(x + i, n - i));
    amax = max(amax, bits_to_vf(bits & 0x7fffffffu & is_finite(bits)));
  }
  const float exact_scale = reduce_max(amax) / 448.0f;
  const float scale = exact_scale > 0x1p-126f ? exact_scale : 0x1p-126f;
  const Vf inverse = splat(1.0f / scale);
  for (int64_t i = 0; i < n; i += kLanes)
    store_codes(code + i, to_e4m3(load_some(x + i, n - i), inverse), n - i);
  return scale;
}

void from_fp8_group(const uint8_t* code, float scale, int64_t n, float* x) {
  const Vf scales = splat(scale / kE4m3Unit);
  for (int64_t i = 0; i < n; i += kLanes) {
    if (n - i >= kLanes)
      store(x + i, load_e4m3(code + i) * scales);
    else
      store_n(x + i, load_e4m3_n(code + i, n - i) * scales, n - i);
  }
}

}  // namespace guildhall::GH_ISA_NS
