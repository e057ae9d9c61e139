// sampling_simd.cc: passes over a row of logits: maximum, unnormalised probabilities and their histogram
// buckets, one bucket's members, sum of exponentials.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

// The largest logit; NaNs are passed over; -inf if there is nothing else.
float max_logit(const float* logits, int64_t n) {
  Vf a = splat(-__builtin_inff()), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a = max(load(logits + i), a);
    b = max(load(logits + i + kLanes), b);
    c = max(load(logits + i + 2 * kLanes), c);
    d = max(load(logits + i + 3 * kLanes), d);
  }
  float best = reduce_max(max(max(a, b), max(c, d)));
  for (; i < n; ++i) best = logits[i] > best ? logits[i] : best;
  return best;
}

// sampling_probability of sampling_weight.h, operation by operation.
GH_INLINE Vf probability(Vf logit, Vf top, Vf inverse_temperature) {
  const Vf x = max((logit - top) * inverse_temperature, splat(-30.0f));
  const Vf magic = splat(12582912.0f);
  const Vf shifted = x * splat(1.44269504f) + magic;
  const Vf n = shifted - magic;
  const Vf r = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
  Vf p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const Vf power = bits_to_vf((vf_to_bits(shifted) - vf_to_bits(magic) + 127u) << 23);
  return logit == top ? splat(1.0f) : p * power;
}

void sampling_probabilities(const float* logits, int64_t n, float top, float inverse_temperature,
                            float bucket_scale, int32_t num_buckets, float least, float* probability_v,
                            int32_t* bucket_v) {
  const Vf top_v = splat(top), inverse_v = splat(inverse_temperature), scale_v = splat(bucket_scale);
  const Vf last_v = splat(static_cast<float>(num_buckets - 1)), least_v = splat(least);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const Vf logit = m == kLanes ? load(logits + i) : load_n(logits + i, m);
    const Vf p = probability(logit, top_v, inverse_v);
    // Monotone in the logit: subtraction, multiplication and truncation are. Tokens less likely than `least`
    // go to a bucket past the last.
    const Vf position = logit == top_v ? zero() : min((top_v - logit) * scale_v, last_v);
    const Vi bucket = p < least_v ? num_buckets + Vi{} : __builtin_convertvector(position, Vi);
    if (m == kLanes) {
      store(probability_v + i, p);
      store(reinterpret_cast<float*>(bucket_v + i), reinterpret_cast<Vf>(bucket));
    } else {
      store_n(probability_v + i, p, m);
      for (int64_t j = 0; j < m; ++j) bucket_v[i + j] = bucket[j];
    }
  }
}

// The positions of `bucket` in bucket_v, ascending; returns how many. ids has room for n.
int64_t ids_in_bucket(const int32_t* bucket_v, int64_t n, int32_t bucket, int32_t* ids) {
  constexpr int64_t kBlock = 64;  // most blocks hold none
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int32_t any = 0;
    if (begin + kBlock <= n)
      for (int64_t i = 0; i < kBlock; ++i) any |= bucket_v[begin + i] == bucket;
    else
      any = 1;
    if (any == 0) continue;
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    for (int64_t i = begin; i < end; ++i) {
      ids[count] = static_cast<int32_t>(i);
      count += bucket_v[i] == bucket;
    }
  }
  return count;
}

// Sum of exp(logit - top). Blocks of 512 are summed in float, their sums in double.
double sum_exp(const float* logits, int64_t n, float top) {
  constexpr int64_t kBlock = 512;
  const Vf top_v = splat(top);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    Vf sum = zero();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) sum = sum + exp(load(logits + i) - top_v);
    if (i < end) {
      float tail[kLanes] = {};
      store_n(tail, exp(load_n(logits + i, end - i) - top_v), end - i);
      sum = sum + load(tail);
    }
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

}  // namespace guildhall::GH_ISA_NS
