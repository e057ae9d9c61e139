// kv_codes_simd.cc: one group of the KV cache's codes, a vector at a time.
#include "kernels/fp8_simd.h"

namespace guildhall::GH_ISA_NS {
namespace {

// Nearest integers of at most 127 in size, ties to even: adding 1.5 * 2^23 leaves no bits for fractions.
GH_INLINE Vu to_int8(Vf x, Vf inverse) {
  return vf_to_bits(min(max(x * inverse, splat(-127.0f)), splat(127.0f)) + splat(12582912.0f));
}

template <class ToCode>
GH_INLINE float to_group(const float* x, int64_t n, float largest, uint8_t* code, ToCode to_code) {
  Vf amax = zero();
  Vu finite = ~Vu{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vu bits = vf_to_bits(load_some(x + i, n - i));
    finite &= is_finite(bits);
    amax = max(amax, bits_to_vf(bits & 0x7fffffffu));
  }
  for (int i = 0; i < kLanes; ++i) {
    if (finite[i] != 0) continue;
    for (int64_t j = 0; j < n; ++j) code[j] = 0;
    return __builtin_nanf("");
  }
  const float exact_scale = reduce_max(amax) / largest;
  const float scale = exact_scale > 0x1p-126f ? exact_scale : 0x1p-126f;
  const Vf inverse = splat(1.0f / scale);
  for (int64_t i = 0; i < n; i += kLanes)
    store_codes(code + i, to_code(load_some(x + i, n - i), inverse), n - i);
  return scale;
}

}  // namespace

float to_kv_e4m3_group(const float* x, int64_t n, uint8_t* code) {
  return to_group(x, n, 448.0f, code, [](Vf v, Vf inverse) { return to_e4m3(v, inverse); });
}
float to_kv_int8_group(const float* x, int64_t n, uint8_t* code) {
  return to_group(x, n, 127.0f, code, [](Vf v, Vf inverse) { return to_int8(v, inverse); });
}

}  // namespace guildhall::GH_ISA_NS
