// gate_topk_ref.cc: the gate by repeated search for the best expert left.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/gate_topk.h"

namespace guildhall {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

std::vector<float> scores_of(std::span<const float> logits_e, GateScoring scoring) {
  std::vector<float> score_e(logits_e.size());
  if (scoring == GateScoring::sigmoid) {
    for (size_t e = 0; e < score_e.size(); ++e) score_e[e] = 1 / (1 + std::exp(-logits_e[e]));
    return score_e;
  }
  const float max = *std::max_element(logits_e.begin(), logits_e.end());
  float sum = 0;
  for (size_t e = 0; e < score_e.size(); ++e) sum += score_e[e] = std::exp(logits_e[e] - max);
  for (float& score : score_e) score /= sum;
  return score_e;
}

// The largest, ties to the lowest index, of those not taken.
size_t best_left(const std::vector<float>& choice, const std::vector<bool>& taken) {
  size_t best = choice.size();
  for (size_t i = 0; i < choice.size(); ++i)
    if (!taken[i] && (best == choice.size() || choice[i] > choice[best])) best = i;
  return best;
}

// Masks the experts outside the best groups.
void keep_top_groups(const GateRule& rule, std::vector<float>& choice_e) {
  const size_t group_size = choice_e.size() / static_cast<size_t>(rule.num_groups);
  std::vector<float> score_g;
  for (int g = 0; g < rule.num_groups; ++g) {
    std::vector<float> members(choice_e.begin() + g * group_size, choice_e.begin() + (g + 1) * group_size);
    std::sort(members.begin(), members.end(), std::greater<>());
    const bool add_second = rule.group_score == GroupScore::sum_top2 && group_size > 1;
    score_g.push_back(add_second ? members[0] + members[1] : members[0]);
  }
  std::vector<bool> kept(score_g.size(), false);
  for (int i = 0; i < rule.top_groups; ++i) kept[best_left(score_g, kept)] = true;
  for (size_t e = 0; e < choice_e.size(); ++e)
    if (!kept[e / group_size]) choice_e[e] = kMasked;
}

}  // namespace

void gate_topk_ref(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                   View2<int32_t> expert_tk, View2<float> weight_tk) {
  for (int64_t t = 0; t < logits_te.rows; ++t) {
    const std::vector<float> score_e =
        scores_of({logits_te.row(t), static_cast<size_t>(logits_te.cols)}, rule.scoring);
    std::vector<float> choice_e = score_e;
    for (size_t e = 0; e < bias_e.size(); ++e) choice_e[e] += bias_e[e];
    for (float& choice : choice_e)
      if (std::isnan(choice)) choice = kMasked;
    if (rule.group_score != GroupScore::none) keep_top_groups(rule, choice_e);

    std::vector<bool> taken(choice_e.size(), false);
    float sum = 0;
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      const size_t e = best_left(choice_e, taken);
      taken[e] = true;
      expert_tk(t, k) = static_cast<int32_t>(e);
      weight_tk(t, k) = score_e[e];
      sum += score_e[e];
    }
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      if (rule.normalize) weight_tk(t, k) /= sum + 1e-20f;
      weight_tk(t, k) *= rule.scale;
    }
  }
}

}  // namespace guildhall
