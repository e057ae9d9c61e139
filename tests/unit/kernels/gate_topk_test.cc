// gate_topk_test.cc: hand-computed gates of every rule, ties and extremes; then every instruction set against
// ref.
#include "kernels/gate_topk.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

struct Picked {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
using Gate = decltype(gate_topk_ref);

Picked pick(Gate* gate, const std::vector<float>& logits, const std::vector<float>& bias,
            const GateRule& rule, int64_t top_k) {
  Picked picked{std::vector<int32_t>(top_k, -7), std::vector<float>(top_k, -7)};
  gate(View2<const float>(logits.data(), 1, static_cast<int64_t>(logits.size())), bias, rule,
       View2<int32_t>(picked.experts.data(), 1, top_k), View2<float>(picked.weights.data(), 1, top_k));
  return picked;
}

void expect_picked(const Picked& picked, const std::vector<int32_t>& experts,
                   const std::vector<double>& weights) {
  EXPECT_EQ(picked.experts, experts);
  for (size_t k = 0; k < weights.size(); ++k) EXPECT_NEAR(picked.weights[k], weights[k], 2e-6) << k;
}

// The hand-computed cases hold for ref and for cpu in every instruction set; ref comes with the first.
class GateTopk : public IsaTest {
 protected:
  void expect(const std::vector<float>& logits, const std::vector<float>& bias, const GateRule& rule,
              const std::vector<int32_t>& experts, const std::vector<double>& weights) {
    const auto top_k = static_cast<int64_t>(experts.size());
    expect_picked(pick(gate_topk_ref, logits, bias, rule, top_k), experts, weights);
    expect_picked(pick(gate_topk_cpu, logits, bias, rule, top_k), experts, weights);
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, GateTopk, testing::ValuesIn(available_isas()), isa_name);

float logit_of(double p) { return static_cast<float>(std::log(p / (1 - p))); }
float log_of(double p) { return static_cast<float>(std::log(p)); }

TEST_P(GateTopk, SoftmaxWeightsAreTheProbabilitiesOverAllExperts) {
  expect({log_of(0.1), log_of(0.5), log_of(0.15), log_of(0.25)}, {}, {}, {1, 3}, {0.5, 0.25});
}

TEST_P(GateTopk, NormalizedWeightsSumToTheScale) {
  expect({log_of(0.1), log_of(0.5), log_of(0.15), log_of(0.25)}, {}, {.normalize = true, .scale = 3}, {1, 3},
         {2, 1});
}

TEST_P(GateTopk, ScaleAloneMultiplies) {
  expect({log_of(0.1), log_of(0.5), log_of(0.15), log_of(0.25)}, {}, {.scale = 16}, {1, 3}, {8, 4});
}

// Groups (0,1), (2,3), (4,5): maxima 0.05, 0.4, 0.3; experts of the best two only.
TEST_P(GateTopk, GroupedMaxKeepsTheGroupsOfTheBestExperts) {
  expect({log_of(0.05), log_of(0.04), log_of(0.4), log_of(0.01), log_of(0.3), log_of(0.2)}, {},
         {.group_score = GroupScore::max, .num_groups = 3, .top_groups = 1}, {2, 3}, {0.4, 0.01});
}

// Sums of two: 0.9 + 0.1 = 1.0 against 0.6 + 0.5 = 1.1: the second group wins although the first holds the
// best.
TEST_P(GateTopk, GroupedSumOfTwoPrefersTheBetterPair) {
  expect({logit_of(0.9), logit_of(0.1), logit_of(0.6), logit_of(0.5)}, {},
         {.scoring = GateScoring::sigmoid,
          .group_score = GroupScore::sum_top2,
          .num_groups = 2,
          .top_groups = 1,
          .normalize = true,
          .scale = 2.5f},
         {2, 3}, {2.5 * 0.6 / 1.1, 2.5 * 0.5 / 1.1});
}

TEST_P(GateTopk, BiasChoosesButDoesNotWeigh) {
  expect({logit_of(0.9), logit_of(0.5), logit_of(0.2)}, {0, 0.1f, 0.8f}, {.scoring = GateScoring::sigmoid},
         {2, 0}, {0.2, 0.9});
}

// All choice scores are negative. Masking by zero instead of -inf would pick experts 2 and 3 of the lost
// group.
TEST_P(GateTopk, MaskedExpertsLoseToNegativeScores) {
  expect({logit_of(0.6), logit_of(0.5), logit_of(0.4), logit_of(0.3)}, {-2, -2, -2, -2},
         {.scoring = GateScoring::sigmoid,
          .group_score = GroupScore::sum_top2,
          .num_groups = 2,
          .top_groups = 1},
         {0, 1}, {0.6, 0.5});
}

TEST_P(GateTopk, TiesGoToTheLowestExpert) {
  expect({1, 2, 2, 1, 2}, {}, {.normalize = true}, {1, 2, 4, 0}, {});
  expect({0, 0, 0, 0}, {}, {}, {0, 1, 2}, {0.25, 0.25, 0.25});
}

TEST_P(GateTopk, TiedGroupsGoToTheLowest) {
  expect({3, 1, 1, 3, 2, 2}, {}, {.group_score = GroupScore::max, .num_groups = 3, .top_groups = 1}, {0, 1},
         {});
  expect({3, 1, 1, 3, 2, 2}, {}, {.group_score = GroupScore::max, .num_groups = 3, .top_groups = 2},
         {0, 3, 1}, {});
}

TEST_P(GateTopk, OneExpert) {
  expect({-5}, {}, {}, {0}, {1});
  expect({-5}, {3}, {.scoring = GateScoring::sigmoid, .normalize = true, .scale = 2}, {0}, {2});
}

TEST_P(GateTopk, AllExperts) {
  expect({log_of(0.2), log_of(0.5), log_of(0.3)}, {}, {}, {1, 2, 0}, {0.5, 0.3, 0.2});
}

TEST_P(GateTopk, GroupsOfOneExpert) {
  expect({logit_of(0.2), logit_of(0.7), logit_of(0.4)}, {},
         {.scoring = GateScoring::sigmoid,
          .group_score = GroupScore::sum_top2,
          .num_groups = 3,
          .top_groups = 2},
         {1, 2}, {0.7, 0.4});
}

TEST_P(GateTopk, NanIsChosenLastAndIndicesStayValid) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const GateRule rule{.scoring = GateScoring::sigmoid};
  for (Gate* gate : {&gate_topk_ref, &gate_topk_cpu}) {
    EXPECT_EQ(pick(gate, {nan, 1, nan, 2, 0}, {}, rule, 4).experts, (std::vector<int32_t>{3, 1, 4, 0}));
    EXPECT_EQ(pick(gate, {nan, nan, nan}, {}, {}, 2).experts, (std::vector<int32_t>{0, 1}));
  }
}

struct Shape {
  int64_t tokens, experts, top_k;
  GateRule rule;
  bool bias;
};

TEST_P(GateTopk, MatchesRefAtOddSizes) {
  const GateRule v2{.group_score = GroupScore::max, .num_groups = 8, .top_groups = 3, .scale = 16};
  const GateRule v3{.scoring = GateScoring::sigmoid,
                    .group_score = GroupScore::sum_top2,
                    .num_groups = 8,
                    .top_groups = 4,
                    .normalize = true,
                    .scale = 2.5f};
  const Shape shapes[] = {{3, 1, 1, {}, false},
                          {5, 7, 3, {}, false},
                          {4, 17, 17, {.normalize = true}, false},
                          {9, 60, 4, {}, false},
                          {9, 160, 6, v2, false},
                          {9, 256, 8, v3, true},
                          {0, 256, 8, v3, true},
                          {2, 384, 8, {.scoring = GateScoring::sigmoid, .normalize = true}, true}};
  for (const Shape& s : shapes) {
    const std::vector<float> logits = random_floats(s.tokens * s.experts, 3, 2);
    const std::vector<float> bias = s.bias ? random_floats(s.experts, 4, 0.05f) : std::vector<float>{};
    std::vector<int32_t> expert(s.tokens * s.top_k), ref_expert(expert.size());
    std::vector<float> weight(expert.size()), ref_weight(expert.size());
    const View2<const float> logits_te(logits.data(), s.tokens, s.experts);
    gate_topk_cpu(logits_te, bias, s.rule, View2<int32_t>(expert.data(), s.tokens, s.top_k),
                  View2<float>(weight.data(), s.tokens, s.top_k));
    gate_topk_ref(logits_te, bias, s.rule, View2<int32_t>(ref_expert.data(), s.tokens, s.top_k),
                  View2<float>(ref_weight.data(), s.tokens, s.top_k));
    // Random scores differ by far more than the 1e-6 by which the two exponentials may.
    EXPECT_EQ(expert, ref_expert) << s.experts;
    for (size_t i = 0; i < weight.size(); ++i)
      EXPECT_NEAR(weight[i], ref_weight[i], 4e-6 * ref_weight[i]) << s.experts << " " << i;
  }
}

TEST_P(GateTopk, ATokenAloneGetsTheSameBits) {
  constexpr int64_t kTokens = 13, kExperts = 70, kTopK = 5;
  const std::vector<float> logits = random_floats(kTokens * kExperts, 8);
  std::vector<int32_t> expert(kTokens * kTopK);
  std::vector<float> weight(expert.size());
  gate_topk_cpu(View2<const float>(logits.data(), kTokens, kExperts), {}, {.normalize = true},
                View2<int32_t>(expert.data(), kTokens, kTopK), View2<float>(weight.data(), kTokens, kTopK));
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<float> row(logits.begin() + t * kExperts, logits.begin() + (t + 1) * kExperts);
    const Picked alone = pick(gate_topk_cpu, row, {}, {.normalize = true}, kTopK);
    for (int64_t k = 0; k < kTopK; ++k) {
      EXPECT_EQ(alone.experts[k], expert[t * kTopK + k]);
      EXPECT_TRUE(same_bits(alone.weights[k], weight[t * kTopK + k]));
    }
  }
}

}  // namespace
}  // namespace guildhall
