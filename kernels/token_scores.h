// token_scores.h: what a row of logits says about one token: its log-probability, its rank, and the most
// likely tokens beside it. So that of a vocabulary's logits only these few numbers leave the device.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

inline constexpr int32_t kMaxTopScores = 20;

struct ScoredRow {
  int64_t row = 0;
  int32_t token = 0;    // [0, V)
  int32_t num_top = 0;  // 0 .. kMaxTopScores
};

// logprob(v) = logits_v[v] - log(sum(exp(logits))), as sampling.h has it.
struct TokenScores {
  float logprob = 0;
  int32_t rank = 1;  // 1 + how many tokens have a larger logit
  // The first min(num_top, V) are written: best first, ties to the lowest id; a NaN counts as -inf.
  int32_t top_id[kMaxTopScores] = {};
  float top_logprob[kMaxTopScores] = {};
};

void token_scores_ref(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                      std::span<TokenScores> scores_i);
void token_scores_cpu(Team& team, View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                      std::span<TokenScores> scores_i);
// Sums are in double, in an order that V alone decides: log-probabilities within 1e-6 of ref; ids and ranks
// are ref's. V < 2^31.
void token_scores_cuda(CudaStream stream, View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                       std::span<TokenScores> scores_i);

}  // namespace guildhall
