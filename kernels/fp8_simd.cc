// fp8_simd.cc: one group of e4m3 codes, a vector at a time.
#include "kernels/fp8_simd.h"

namespace guildhall::GH_ISA_NS {

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
