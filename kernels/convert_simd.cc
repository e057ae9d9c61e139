// convert_simd.cc: fp32 <-> bf16, a vector at a time.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

void to_bf16_n(const float* x, int64_t n, uint16_t* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_bf16(y + i, load(x + i));
  if (i < n) store_bf16_n(y + i, load_n(x + i, n - i), n - i);
}

void from_bf16_n(const uint16_t* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load_bf16(x + i));
  if (i < n) store_n(y + i, load_bf16_n(x + i, n - i), n - i);
}

}  // namespace guildhall::GH_ISA_NS
