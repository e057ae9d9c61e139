// token_scores_cpu.cc: scores of tokens, a thread per row.
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/sampling.h"
#include "kernels/token_scores.h"

namespace guildhall {
namespace {

int32_t rank_of(std::span<const float> logits_v, float logit) {
  if (std::isnan(logit)) logit = -std::numeric_limits<float>::infinity();
  int32_t larger = 0;
  for (const float other : logits_v) larger += other > logit;
  return larger + 1;
}

}  // namespace

void token_scores_cpu(Team& team, View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                      std::span<TokenScores> scores_i) {
  GH_CHECK(row_i.size() == scores_i.size());
  const auto one = [&](int64_t i) {
    const ScoredRow& wanted = row_i[static_cast<size_t>(i)];
    TokenScores& scores = scores_i[static_cast<size_t>(i)];
    GH_CHECK(wanted.num_top >= 0 && wanted.num_top <= kMaxTopScores);
    const std::span<const float> logits_v{logits_rv.row(wanted.row), static_cast<size_t>(logits_rv.cols)};
    const float logit = logits_v[static_cast<size_t>(wanted.token)], norm = log_sum_exp_cpu(logits_v);
    scores.logprob = logit - norm;
    scores.rank = rank_of(logits_v, logit);
    size_t k = 0;
    for (const int32_t id : top_n(logits_v, wanted.num_top)) {
      scores.top_id[k] = id;
      scores.top_logprob[k++] = logits_v[static_cast<size_t>(id)] - norm;
    }
  };
  team.parallel_for(static_cast<int64_t>(row_i.size()), std::ref(one));
}

}  // namespace guildhall
