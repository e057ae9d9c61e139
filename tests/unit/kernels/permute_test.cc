// permute_test.cc: grouping is a stable counting sort, and unpermute undoes permute.
#include "kernels/permute.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

TEST(GroupByExpert, HandExample) {
  const std::vector<int32_t> expert_p = {2, 0, 2, 3, 0};
  std::vector<int32_t> offset_e(5), position_p(5);
  group_by_expert_cpu(expert_p, offset_e, position_p);
  EXPECT_EQ(offset_e, (std::vector<int32_t>{0, 2, 2, 4, 5}));
  EXPECT_EQ(position_p, (std::vector<int32_t>{2, 0, 3, 4, 1}));
}

TEST(GroupByExpert, MatchesRefIncludingNoPairsAndOneExpert) {
  std::mt19937 generator(5);
  for (int32_t num_experts : {1, 2, 7, 64, 256}) {
    for (size_t num_pairs : {0u, 1u, 13u, 500u}) {
      std::uniform_int_distribution<int32_t> any(0, num_experts - 1);
      std::vector<int32_t> expert_p(num_pairs);
      for (int32_t& e : expert_p) e = any(generator);
      std::vector<int32_t> offset_e(num_experts + 1, -1), position_p(num_pairs, -1);
      std::vector<int32_t> ref_offset_e = offset_e, ref_position_p = position_p;
      group_by_expert_cpu(expert_p, offset_e, position_p);
      group_by_expert_ref(expert_p, ref_offset_e, ref_position_p);
      EXPECT_EQ(offset_e, ref_offset_e);
      EXPECT_EQ(position_p, ref_position_p);
    }
  }
}

TEST(Permute, GroupsRowsByExpertAndUnpermuteUndoesIt) {
  constexpr int64_t kTokens = 23, kTopK = 3, kHidden = 19, kPairs = kTokens * kTopK;
  const std::vector<float> x = random_floats(kTokens * kHidden, 1);
  std::mt19937 generator(6);
  std::vector<int32_t> expert_p(kPairs), row_p(kPairs), offset_e(8), position_p(kPairs);
  for (int64_t p = 0; p < kPairs; ++p) {
    expert_p[p] = static_cast<int32_t>(generator() % 7);
    row_p[p] = static_cast<int32_t>(p / kTopK);
  }
  group_by_expert_cpu(expert_p, offset_e, position_p);

  const View2<const float> x_th(x.data(), kTokens, kHidden);
  std::vector<float> grouped(kPairs * kHidden), ref_grouped(grouped.size()), y(grouped.size()),
      ref_y(y.size());
  const View2<float> grouped_ph(grouped.data(), kPairs, kHidden);
  permute_cpu(x_th, row_p, position_p, grouped_ph);
  permute_ref(x_th, row_p, position_p, View2<float>(ref_grouped.data(), kPairs, kHidden));
  EXPECT_EQ(grouped, ref_grouped);

  const View2<float> y_ph(y.data(), kPairs, kHidden);
  unpermute_cpu(grouped_ph, position_p, y_ph);
  unpermute_ref(grouped_ph, position_p, View2<float>(ref_y.data(), kPairs, kHidden));
  EXPECT_EQ(y, ref_y);
  for (int64_t p = 0; p < kPairs; ++p)
    for (int64_t h = 0; h < kHidden; ++h) EXPECT_EQ(y_ph(p, h), x_th(row_p[p], h));
}

}  // namespace
}  // namespace guildhall
