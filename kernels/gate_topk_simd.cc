// gate_topk_simd.cc: one token's scores. Equal logits give equal scores wherever they stand in the row,
// because every element goes through the same vector operations.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

void gate_softmax(const float* logits, int64_t n, float* score) {
  Vf max_v = splat(logits[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) max_v = max(load(logits + i), max_v);
  float max_logit = reduce_max(max_v);
  for (; i < n; ++i) max_logit = logits[i] > max_logit ? logits[i] : max_logit;

  const Vf shift = splat(max_logit);
  Vf sum_v = zero();
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vf p = exp(load(logits + i) - shift);
    store(score + i, p);
    sum_v = sum_v + p;
  }
  float sum = reduce_add(sum_v);
  if (i < n) {
    store_n(score + i, exp(load_n(logits + i, n - i) - shift), n - i);
    for (int64_t j = i; j < n; ++j) sum += score[j];
  }
  for (i = 0; i < n; ++i) score[i] /= sum;
}

void gate_sigmoid(const float* logits, int64_t n, float* score) {
  const Vf one = splat(1.0f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(score + i, one / (one + exp(-load(logits + i))));
  if (i < n) store_n(score + i, one / (one + exp(-load_n(logits + i, n - i))), n - i);
}

}  // namespace guildhall::GH_ISA_NS
