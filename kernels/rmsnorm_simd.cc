// rmsnorm_simd.cc: one row of RMSNorm or of the residual addition, a vector at a time.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

void rmsnorm_row(const float* x, const float* weight, float eps, int64_t n, float* y) {
  Vf sum_a = zero(), sum_b = zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Vf a = load(x + i), b = load(x + i + kLanes);
    sum_a = fma(a, a, sum_a);
    sum_b = fma(b, b, sum_b);
  }
  for (; i < n; i += kLanes) {
    const Vf a = load_n(x + i, n - i < kLanes ? n - i : kLanes);
    sum_a = fma(a, a, sum_a);
  }
  const float mean = reduce_add(sum_a + sum_b) / static_cast<float>(n);
  const Vf inverse_rms = splat(1.0f / __builtin_sqrtf(mean + eps));
  for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(x + i) * inverse_rms * load(weight + i));
  if (i < n) store_n(y + i, load_n(x + i, n - i) * inverse_rms * load_n(weight + i, n - i), n - i);
}

void add_row(const float* y, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

}  // namespace guildhall::GH_ISA_NS
