#include "router/placement.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

TEST(EvenSplit, GivesEveryExpertOneWorkerAndCountsThatDifferByOneAtMost) {
  for (const int64_t num_experts : {1, 2, 6, 9, 64, 128, 257})
    for (const int64_t num_workers : {1, 2, 3, 5, 8, 64}) {
      SCOPED_TRACE(testing::Message() << num_experts << " experts on " << num_workers);
      ModelSpec spec = tiny_gqa_spec();
      spec.moe.num_experts = num_experts;
      const Placement placement = even_split(spec, num_workers, 7);
      EXPECT_EQ(placement.version, 7u);
      EXPECT_EQ(placement.num_workers, num_workers);
      ASSERT_EQ(placement.worker_le.size(), 2u);
      EXPECT_TRUE(placement.worker_le[0].empty());  // a dense layer
      std::vector<int64_t> count_w(static_cast<size_t>(num_workers));
      for (const int32_t w : placement.worker_le[1]) {
        ASSERT_TRUE(w >= 0 && w < num_workers);
        ++count_w[static_cast<size_t>(w)];
      }
      EXPECT_EQ(static_cast<int64_t>(placement.worker_le[1].size()), num_experts);
      EXPECT_TRUE(std::is_sorted(placement.worker_le[1].begin(), placement.worker_le[1].end()));
      const auto [least, most] = std::minmax_element(count_w.begin(), count_w.end());
      EXPECT_LE(*most - *least, 1);
    }
}

TEST(EvenSplit, ListsOfAllWorkersMakeUpTheTable) {
  ModelSpec spec = tiny_gqa_spec();
  spec.moe.num_experts = 11;
  const Placement placement = even_split(spec, 4, 1);
  std::vector<int32_t> all;
  for (int32_t w = 0; w < 4; ++w) {
    const auto experts = placement.experts_of(w);
    ASSERT_EQ(experts.size(), 2u);
    EXPECT_TRUE(experts[0].empty());
    for (const int32_t e : experts[1]) EXPECT_EQ(placement.worker_le[1][static_cast<size_t>(e)], w);
    all.insert(all.end(), experts[1].begin(), experts[1].end());
  }
  EXPECT_EQ(all, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

}  // namespace
}  // namespace guildhall
