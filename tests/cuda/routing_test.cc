// routing_test.cc: gate, grouping, permutation and combine against ref: the same integers, the same bits
// where the contract promises them.
#include <limits>

#include "kernels/combine.h"
#include "kernels/gate_topk.h"
#include "kernels/permute.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using Routing = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Routing, kSeeds);

struct Picked {
  std::vector<int32_t> expert_tk;
  std::vector<float> weight_tk;
};

struct Gate {
  int64_t tokens, experts, top_k;
  GateRule rule;
  std::vector<float> bias_e;
};

Picked pick_ref(const Gate& gate, const std::vector<float>& logits) {
  Picked picked{std::vector<int32_t>(gate.tokens * gate.top_k), std::vector<float>(gate.tokens * gate.top_k)};
  gate_topk_ref(as_view(logits, gate.tokens, gate.experts), gate.bias_e, gate.rule,
                as_view(picked.expert_tk, gate.tokens, gate.top_k),
                as_view(picked.weight_tk, gate.tokens, gate.top_k));
  return picked;
}

Picked pick_cuda(const Gate& gate, const std::vector<float>& logits, const Layout& layout = {}) {
  const auto size = static_cast<size_t>(gate.tokens * gate.top_k);
  const DeviceMatrix<float> device_logits(logits, gate.tokens, gate.experts, layout);
  const DeviceArray<float> bias(gate.bias_e, layout.shift);
  const DeviceMatrix<int32_t> expert(std::vector<int32_t>(size, -7), gate.tokens, gate.top_k, layout);
  const DeviceMatrix<float> weight(std::vector<float>(size, -7), gate.tokens, gate.top_k, layout);
  gate_topk_cuda(nullptr, device_logits, gate.bias_e.empty() ? std::span<const float>() : bias.span(),
                 gate.rule, expert, weight);
  return {expert.download(), weight.download()};
}

// Random scores differ by far more than the 1e-6 by which the two exponentials may.
void expect_same(const Picked& got, const Picked& want) {
  EXPECT_EQ(got.expert_tk, want.expert_tk);
  for (size_t i = 0; i < want.weight_tk.size(); ++i)
    EXPECT_NEAR(got.weight_tk[i], want.weight_tk[i], 4e-6 * std::abs(want.weight_tk[i])) << i;
}

GateRule v2_rule(int num_groups, int top_groups) {
  return {.group_score = GroupScore::max, .num_groups = num_groups, .top_groups = top_groups, .scale = 16};
}
GateRule v3_rule(int num_groups, int top_groups) {
  return {.scoring = GateScoring::sigmoid,
          .group_score = GroupScore::sum_top2,
          .num_groups = num_groups,
          .top_groups = top_groups,
          .normalize = true,
          .scale = 2.5f};
}

TEST_P(Routing, GateMatchesRefUnderEveryRuleAtOddSizes) {
  const GateRule sigmoid{.scoring = GateScoring::sigmoid, .normalize = true};
  const Gate gates[] = {{3, 1, 1, {}, {}},
                        {5, 7, 3, {}, {}},
                        {4, 17, 17, {.normalize = true}, {}},
                        {9, 60, 4, {}, {}},
                        {1, 31, 2, sigmoid, {}},
                        {6, 33, 6, sigmoid, random_floats(33, 4, 0.05f)},
                        {9, 160, 6, v2_rule(8, 3), {}},
                        {9, 256, 8, v3_rule(8, 4), random_floats(256, 4, 0.05f)},
                        {3, 130, 40, v2_rule(13, 5), {}},
                        {3, 3, 2, v3_rule(3, 2), {}},
                        {0, 256, 8, v3_rule(8, 4), {}},
                        {2, 384, 8, sigmoid, random_floats(384, 4, 0.05f)},
                        {2, kMaxCudaGateExperts, 5, {}, {}}};
  for (const Gate& gate : gates) {
    const std::vector<float> logits = random_floats(gate.tokens * gate.experts, 3, 2);
    for (const Layout& layout : kLayouts) {
      SCOPED_TRACE(testing::Message() << gate.tokens << "x" << gate.experts << " top " << gate.top_k);
      expect_same(pick_cuda(gate, logits, layout), pick_ref(gate, logits));
    }
  }
}

TEST_P(Routing, TiedExpertsAndGroupsGoToTheLowest) {
  const std::vector<float> few{1, 2, 2, 1, 2, 0, 0, 2, 1, 1, 2, 2};
  for (const GateRule& rule : {GateRule{.normalize = true}, v2_rule(4, 2), v3_rule(3, 2)}) {
    const Gate gate{1, 12, 6, rule, {}};
    expect_same(pick_cuda(gate, few), pick_ref(gate, few));
  }
  const Gate all_equal{2, 100, 9, {}, {}};
  const std::vector<float> zeros(200, 0.0f);
  expect_same(pick_cuda(all_equal, zeros), pick_ref(all_equal, zeros));
}

TEST_P(Routing, MaskedExpertsLoseToNegativeScores) {
  const Gate gate{1, 4, 2, v3_rule(2, 1), {-2, -2, -2, -2}};
  const std::vector<float> logits{0.4f, 0.0f, -0.4f, -0.8f};
  const Picked picked = pick_cuda(gate, logits);
  EXPECT_EQ(picked.expert_tk, (std::vector<int32_t>{0, 1}));
  expect_same(picked, pick_ref(gate, logits));
}

TEST_P(Routing, NanIsChosenLastAndIndicesStayValid) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const GateRule sigmoid{.scoring = GateScoring::sigmoid};
  EXPECT_EQ(pick_cuda({1, 5, 4, sigmoid, {}}, {nan, 1, nan, 2, 0}).expert_tk,
            (std::vector<int32_t>{3, 1, 4, 0}));
  EXPECT_EQ(pick_cuda({1, 3, 2, {}, {}}, {nan, nan, nan}).expert_tk, (std::vector<int32_t>{0, 1}));
}

TEST_P(Routing, ATokenAloneGetsTheSameBits) {
  const Gate gate{13, 70, 5, {.normalize = true}, {}};
  const std::vector<float> logits = random_floats(13 * 70, 8);
  const Picked all = pick_cuda(gate, logits);
  for (int64_t t : {0, 6, 12}) {
    const Gate one{1, 70, 5, gate.rule, {}};
    const Picked alone = pick_cuda(one, {logits.begin() + t * 70, logits.begin() + (t + 1) * 70});
    EXPECT_TRUE(
        same_bytes(alone.weight_tk, {all.weight_tk.begin() + t * 5, all.weight_tk.begin() + (t + 1) * 5}));
  }
}

void expect_groups(const std::vector<int32_t>& expert_p, int64_t num_experts) {
  std::vector<int32_t> offset(static_cast<size_t>(num_experts + 1), -7), position(expert_p.size(), -7);
  const DeviceArray<int32_t> experts(expert_p), device_offset(offset), device_position(position);
  group_by_expert_cuda(nullptr, experts, device_offset, device_position);
  group_by_expert_ref(expert_p, offset, position);
  EXPECT_EQ(device_offset.download(), offset) << num_experts;
  EXPECT_EQ(device_position.download(), position) << num_experts;
}

TEST_P(Routing, GroupsAreRefsAndStable) {
  for (size_t pairs : {0, 1, 31, 256, 257, 1000, 3001}) {
    for (int32_t num_experts : {1, 3, 17}) {
      std::mt19937 generator(static_cast<uint32_t>(pairs));
      std::vector<int32_t> expert_p(pairs);
      for (int32_t& e : expert_p) e = static_cast<int32_t>(generator() % static_cast<uint32_t>(num_experts));
      expect_groups(expert_p, num_experts);
    }
  }
  expect_groups(std::vector<int32_t>(300, 2), 5);  // empty groups on both sides
  expect_groups({}, 0);
}

TEST_P(Routing, RowsGoToTheirGroupsAndBack) {
  for (int64_t cols : {1, 3, 33, 128, 1000}) {
    for (const Layout& layout : kLayouts) {
      const std::vector<int32_t> row_p{2, 0, 0, 3, 1, 2, 3}, position_p{6, 0, 3, 1, 5, 4, 2};
      const auto pairs = static_cast<int64_t>(row_p.size());
      const std::vector<float> x = random_floats(4 * cols, 21);
      std::vector<float> grouped(static_cast<size_t>(pairs * cols), -7), back = grouped;
      const DeviceMatrix<float> device_x(x, 4, cols, layout), device_grouped(grouped, pairs, cols, layout),
          device_back(back, pairs, cols);
      const DeviceArray<int32_t> rows(row_p), positions(position_p);
      permute_cuda(nullptr, device_x, rows, positions, device_grouped);
      unpermute_cuda(nullptr, device_grouped, positions, device_back);
      permute_ref(as_view(x, 4, cols), row_p, position_p, as_view(grouped, pairs, cols));
      unpermute_ref(as_view(grouped, pairs, cols), position_p, as_view(back, pairs, cols));
      EXPECT_TRUE(same_bytes(device_grouped.download(), grouped)) << cols;
      EXPECT_TRUE(same_bytes(device_back.download(), back)) << cols;
    }
  }
}

TEST_P(Routing, NoPairsMoveNothing) {
  const DeviceMatrix<float> x(std::vector<float>(8, 1), 2, 4), grouped(std::vector<float>(8, -7), 2, 4);
  permute_cuda(nullptr, x, {}, {}, grouped);
  unpermute_cuda(nullptr, x, {}, grouped);
  EXPECT_EQ(grouped.download(), std::vector<float>(8, -7));
}

TEST_P(Routing, CombineHasRefsBits) {
  for (int64_t cols : {1, 3, 31, 127, 1000}) {
    for (const Layout& layout : kLayouts) {
      constexpr int64_t kTokens = 5, kTopK = 3;
      const std::vector<int32_t> index{4, 0, 2, -1, 3, -1, -1, -1, -1, 5, 5, 1, 0, -1, 6};
      const std::vector<float> rows = random_floats(7 * cols, 22),
                               weight = random_floats(kTokens * kTopK, 23);
      std::vector<float> y = random_floats(kTokens * cols, 24);
      const DeviceMatrix<float> device_rows(rows, 7, cols, layout), device_y(y, kTokens, cols, layout),
          device_weight(weight, kTokens, kTopK, layout);
      const DeviceMatrix<int32_t> device_index(index, kTokens, kTopK, layout);
      combine_cuda(nullptr, device_rows, device_index, device_weight, device_y);
      combine_ref(as_view(rows, 7, cols), as_view(index, kTokens, kTopK), as_view(weight, kTokens, kTopK),
                  as_view(y, kTokens, cols));
      EXPECT_TRUE(same_bytes(device_y.download(), y)) << cols;
    }
  }
}

TEST_P(Routing, CombineOfNoRowsAddsNothing) {
  const DeviceMatrix<float> y(std::vector<float>{1, 2, 3, 4}, 2, 2), weight(std::vector<float>{1, 1}, 2, 1);
  const DeviceMatrix<int32_t> index(std::vector<int32_t>{-1, -1}, 2, 1);
  combine_cuda(nullptr, {}, index, weight, y);
  EXPECT_EQ(y.download(), (std::vector<float>{1, 2, 3, 4}));
}

}  // namespace
}  // namespace guildhall
