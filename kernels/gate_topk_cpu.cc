// gate_topk_cpu.cc: the gate in one pass per token: vector scores, then a short sorted list of the best K.
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/gate_topk.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void gate_softmax(const float* logits, int64_t n, float* score);
           void gate_sigmoid(const float* logits, int64_t n, float* score);)

namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Grows to the largest E, E + groups seen by the thread; never shrinks.
struct Scratch {
  std::vector<float> score_e, choice_e, best_k, group_g;
  std::vector<int32_t> kept_g;
};

// The best `k` of choice[0..n), best first, ties to the lowest index. An entry enters the list only by
// beating the last one, so beyond the first k most cost one comparison. best has room for k.
void top_k(const float* choice, int64_t n, int64_t k, int32_t* index, float* best) {
  int64_t size = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (size == k && !(choice[i] > best[k - 1])) continue;
    if (size < k) ++size;
    int64_t at = size - 1;
    for (; at > 0 && choice[i] > best[at - 1]; --at) {
      best[at] = best[at - 1];
      index[at] = index[at - 1];
    }
    best[at] = choice[i];
    index[at] = static_cast<int32_t>(i);
  }
}

float group_score(const float* member, int64_t size, GroupScore how) {
  float first = kMasked, second = kMasked;
  for (int64_t i = 0; i < size; ++i) {
    if (member[i] > first) {
      second = first;
      first = member[i];
    } else if (member[i] > second) {
      second = member[i];
    }
  }
  return how == GroupScore::sum_top2 && size > 1 ? first + second : first;
}

void keep_top_groups(const GateRule& rule, Scratch& scratch) {
  const int64_t group_size = static_cast<int64_t>(scratch.choice_e.size()) / rule.num_groups;
  scratch.group_g.resize(static_cast<size_t>(rule.num_groups));
  scratch.kept_g.resize(static_cast<size_t>(rule.top_groups));
  scratch.best_k.resize(static_cast<size_t>(rule.top_groups));
  for (int64_t g = 0; g < rule.num_groups; ++g)
    scratch.group_g[g] = group_score(scratch.choice_e.data() + g * group_size, group_size, rule.group_score);
  top_k(scratch.group_g.data(), rule.num_groups, rule.top_groups, scratch.kept_g.data(),
        scratch.best_k.data());
  // A kept group's entry in group_g is no longer needed: it marks the group.
  for (float& mark : scratch.group_g) mark = 0;
  for (int32_t g : scratch.kept_g) scratch.group_g[g] = 1;
  for (int64_t g = 0; g < rule.num_groups; ++g) {
    if (scratch.group_g[g] != 0) continue;
    for (int64_t i = 0; i < group_size; ++i) scratch.choice_e[g * group_size + i] = kMasked;
  }
}

}  // namespace

void gate_topk_cpu(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                   View2<int32_t> expert_tk, View2<float> weight_tk) {
  const int64_t num_experts = logits_te.cols, num_k = expert_tk.cols;
  GH_CHECK(num_k <= num_experts && weight_tk.cols == num_k);
  GH_CHECK(bias_e.empty() || static_cast<int64_t>(bias_e.size()) == num_experts);
  GH_CHECK(rule.group_score == GroupScore::none ||
           (num_experts % rule.num_groups == 0 && rule.top_groups <= rule.num_groups));
  const auto scores = rule.scoring == GateScoring::sigmoid ? GH_PICK(gate_sigmoid) : GH_PICK(gate_softmax);
  thread_local Scratch scratch;
  scratch.score_e.resize(static_cast<size_t>(num_experts));
  scratch.choice_e.resize(static_cast<size_t>(num_experts));

  for (int64_t t = 0; t < logits_te.rows; ++t) {
    float* score = scratch.score_e.data();
    scores(logits_te.row(t), num_experts, score);
    for (int64_t e = 0; e < num_experts; ++e) {
      const float choice = bias_e.empty() ? score[e] : score[e] + bias_e[e];
      scratch.choice_e[e] = choice == choice ? choice : kMasked;  // a NaN is chosen last
    }
    if (rule.group_score != GroupScore::none) keep_top_groups(rule, scratch);

    scratch.best_k.resize(static_cast<size_t>(num_k));
    int32_t* expert = expert_tk.row(t);
    float* weight = weight_tk.row(t);
    top_k(scratch.choice_e.data(), num_experts, num_k, expert, scratch.best_k.data());
    float sum = 0;
    for (int64_t k = 0; k < num_k; ++k) sum += weight[k] = score[expert[k]];
    for (int64_t k = 0; k < num_k; ++k) {
      if (rule.normalize) weight[k] /= sum + 1e-20f;
      weight[k] *= rule.scale;
    }
  }
}

}  // namespace guildhall
