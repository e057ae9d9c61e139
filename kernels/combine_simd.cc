// combine_simd.cc: one token's weighted sum; a piece of the row stays in registers over all K rows.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

void combine_token(const float* rows, int64_t row_stride, const int32_t* index_k, const float* weight_k,
                   int64_t num_k, int64_t n, float* y) {
  constexpr int kVectors = 4;
  int64_t h = 0;
  for (; h + kVectors * kLanes <= n; h += kVectors * kLanes) {
    Vf sum[kVectors] = {};
    for (int64_t k = 0; k < num_k; ++k) {
      if (index_k[k] < 0) continue;
      const float* row = rows + index_k[k] * row_stride + h;
      const Vf weight = splat(weight_k[k]);
      for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] + weight * load(row + v * kLanes);
    }
    for (int v = 0; v < kVectors; ++v) store(y + h + v * kLanes, load(y + h + v * kLanes) + sum[v]);
  }
  for (; h < n; h += kLanes) {
    const int64_t m = n - h < kLanes ? n - h : kLanes;
    Vf sum = zero();
    for (int64_t k = 0; k < num_k; ++k)
      if (index_k[k] >= 0) sum = sum + splat(weight_k[k]) * load_n(rows + index_k[k] * row_stride + h, m);
    store_n(y + h, load_n(y + h, m) + sum, m);
  }
}

}  // namespace guildhall::GH_ISA_NS
