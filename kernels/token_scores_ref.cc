// token_scores_ref.cc: scores of tokens by sorting the whole vocabulary.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/sampling.h"
#include "kernels/token_scores.h"

namespace guildhall {

void token_scores_ref(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                      std::span<TokenScores> scores_i) {
  for (size_t i = 0; i < row_i.size(); ++i) {
    const ScoredRow& wanted = row_i[i];
    const float* logits_v = logits_rv.row(wanted.row);
    const auto value = [&](int32_t id) {
      return std::isnan(logits_v[id]) ? -std::numeric_limits<float>::infinity() : logits_v[id];
    };
    std::vector<int32_t> ids(static_cast<size_t>(logits_rv.cols));
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });

    const float norm = log_sum_exp_ref({logits_v, ids.size()});
    TokenScores& scores = scores_i[i];
    scores.logprob = logits_v[wanted.token] - norm;
    scores.rank = 1 + static_cast<int32_t>(std::ranges::count_if(
                          ids, [&](int32_t id) { return value(id) > value(wanted.token); }));
    ids.resize(std::min(ids.size(), static_cast<size_t>(wanted.num_top)));
    for (size_t k = 0; k < ids.size(); ++k)
      scores.top_id[k] = ids[k], scores.top_logprob[k] = logits_v[ids[k]] - norm;
  }
}

}  // namespace guildhall
