#include "router/balance/held_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const ExpertGrid kGrid{{true, false, true}, 4};

TEST(HeldExperts, CountsReplicasAndNamesWhatIsMissing) {
  HeldExperts held(kGrid, 2);
  held.put_all(0, {{0, 1}, {}, {0, 1, 2, 3}});
  held.put_all(1, {{1, 2}, {}, {}});
  EXPECT_EQ(held.replicas({0, 1}), 2);
  EXPECT_EQ(held.total(0), 6);
  EXPECT_THAT(held.missing(), ElementsAre(ExpertId{0, 3}));
  held.put(1, {0, 1});
  EXPECT_EQ(held.replicas({0, 1}), 2) << "twice is once";
  held.take(0, {0, 0});
  EXPECT_THAT(held.missing(), ElementsAre(ExpertId{0, 0}, ExpertId{0, 3}));
}

TEST(HeldExperts, LeavesOutWhatTheModelDoesNotHave) {
  HeldExperts held(kGrid, 1);
  held.put_all(0, {{-1, 0, 4, 1'000'000}, {2}, {3}, {1}});
  EXPECT_EQ(held.total(0), 2);
}

TEST(HeldExperts, IsAPlacementWhenNoneIsMissing) {
  HeldExperts held(kGrid, 2);
  held.put_all(0, {{0, 1}, {}, {0, 1, 2, 3}});
  held.put_all(1, {{1, 2}, {}, {2}});
  EXPECT_THAT(to_placement(held, 5).error().message, HasSubstr("expert 3 is on no worker"));
  held.put(1, {0, 3});
  const ReplicaPlacement placement = to_placement(held, 5).value();
  EXPECT_EQ(placement.version(), 5u);
  EXPECT_FALSE(placement.has_experts(1));
  EXPECT_THAT(placement.layer(0), ElementsAre(ElementsAre(0, 1), ElementsAre(1, 2, 3)));
  EXPECT_TRUE(HeldExperts(kGrid, placement) == held);
}

TEST(Trimmed, ReplicasBeyondTheSlotsGoWhereOthersHoldThem) {
  const ExpertGrid grid{{true}, 4};
  HeldExperts held(grid, 3);
  held.put_all(0, {{0, 1, 2, 3}});
  held.put_all(1, {{0, 1}});
  held.put_all(2, {{0}});
  const BalanceWorkers workers{.slots_w = {2, 2, 2}, .speed_w = {1, 1, 1}, .node_w = {0, 1, 2}};
  const HeldExperts fewer = trimmed(held, workers);
  EXPECT_EQ(fewer.total(0), 2);
  EXPECT_TRUE(fewer.has(0, {0, 2}) && fewer.has(0, {0, 3})) << "only it has these";
  EXPECT_TRUE(fewer.missing().empty());
  EXPECT_TRUE(trimmed(fewer, workers) == fewer);
  HeldExperts alone(grid, 3);
  alone.put_all(0, {{0, 1, 2, 3}});
  EXPECT_TRUE(trimmed(alone, workers) == alone) << "nobody else has them";
}

}  // namespace
}  // namespace guildhall
