// sampling.h: from one row of logits [V] to a token and log-probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

struct SamplingRule {
  float temperature = 1;  // 0: greedy
  float top_p = 1;        // (0, 1]
  int32_t top_k = 0;      // 0: off
  float min_p = 0;        // [0, 1]; 0: off
};

// A row of a batch's logits to draw a token from, and the uniform number that decides.
struct SampleDraw {
  int64_t row = 0;
  SamplingRule rule;
  double u = 0;
};

// A uniform number in [0, 1) from a counter-based generator (Philox4x32-10, Salmon et al. 2011) keyed by the
// request's seed and the token's position: the same whatever else is in the batch.
double sampling_uniform(uint64_t seed, uint64_t position);

// Greedy: the largest logit, ties to the lowest id. Otherwise: logits / temperature, softmax, keep what is at
// least min_p times as likely as the best, of that the top_k most likely, then the smallest set whose mass
// reaches top_p, renormalise, and invert the cumulative distribution (most likely first, ties by id) at u.
int32_t sample_ref(std::span<const float> logits_v, const SamplingRule& rule, double u);
int32_t sample_cpu(std::span<const float> logits_v, const SamplingRule& rule, double u);
// token_i[i] is drawn as draw_i[i] says; everything is on the device, where nothing checks it. sample_ref's
// tokens: weights are integers (sampling_weight.h) and every step to them is rounded as on the host. V <=
// 2^23.
void sample_cuda(CudaStream stream, View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
                 std::span<int32_t> token_i);

// log(sum(exp(logits))) with a fixed summation order; logprob(v) = logits_v[v] - it.
float log_sum_exp_ref(std::span<const float> logits_v);
float log_sum_exp_cpu(std::span<const float> logits_v);

// The n most likely ids, best first, ties to the lowest id.
std::vector<int32_t> top_n(std::span<const float> logits_v, int n);

}  // namespace guildhall
