// live_placement_test.cc: what may be asked of whom while workers announce, come and go.
#include "router/live_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace guildhall {
namespace {

using ::testing::ElementsAre;

// One layer of four experts.
class LivePlacementTest : public ::testing::Test {
 protected:
  LivePlacement make(int64_t num_workers) { return {{{true}, 4}, num_workers}; }
  static Holdings held(std::vector<int32_t> experts, uint32_t version = 1) {
    return {version, {std::move(experts)}};
  }
  static std::vector<int32_t> holders(LivePlacement& placement, int32_t expert) {
    std::vector<int32_t> list;
    for (const Replica& replica : placement.table().layer(0).of(expert)) list.push_back(replica.worker);
    return list;
  }
};

TEST_F(LivePlacementTest, IsCoveredWhenEveryExpertHasAnAttachedWorker) {
  LivePlacement placement = make(3);
  EXPECT_EQ(placement.uncovered(), "layer 0 expert 0 is held by nobody, as are 3 more");
  placement.attach(0, held({0, 1}));
  placement.attach(2, held({3}));
  EXPECT_EQ(placement.uncovered(), "layer 0 expert 2 is held by nobody");
  EXPECT_FALSE(placement.is_covered());
  placement.announce(2, held({2, 3}, 2));
  EXPECT_EQ(placement.uncovered(), "");
  EXPECT_TRUE(placement.is_covered());
  EXPECT_FALSE(placement.all_attached());  // w1 is not needed
  EXPECT_EQ(placement.version(2), 2u);
  placement.detach(0);
  EXPECT_FALSE(placement.is_covered());
}

TEST_F(LivePlacementTest, WhatAnotherHoldsIsLetGoAtOnce) {
  LivePlacement placement = make(2);
  placement.attach(0, held({0, 1, 2, 3}));
  placement.attach(1, held({0, 1}));
  placement.announce(0, held({1, 2, 3}, 2));
  EXPECT_TRUE(placement.is_settled(0));
  EXPECT_THAT(holders(placement, 0), ElementsAre(1));
  EXPECT_THAT(holders(placement, 1), ElementsAre(0, 1));
}

TEST_F(LivePlacementTest, WhatNobodyElseHoldsStaysInUseUntilOneDoes) {
  LivePlacement placement = make(3);
  placement.attach(0, held({0, 1}));
  placement.attach(1, held({2, 3}));
  placement.announce(0, held({1, 2}, 2));
  EXPECT_FALSE(placement.is_settled(0));
  EXPECT_TRUE(placement.is_settled(1));
  EXPECT_THAT(holders(placement, 0), ElementsAre(0));
  EXPECT_THAT(holders(placement, 2), ElementsAre(0, 1));  // what came is in use at once
  EXPECT_TRUE(placement.is_covered());
  placement.attach(2, held({0}));
  EXPECT_TRUE(placement.is_settled(0));
  EXPECT_THAT(holders(placement, 0), ElementsAre(2));
}

TEST_F(LivePlacementTest, TwoThatDropTheSameExpertDoNotCountOnEachOther) {
  LivePlacement placement = make(2);
  placement.attach(0, held({0, 1, 2, 3}));
  placement.attach(1, held({0, 1}));
  placement.announce(0, held({1, 2, 3}, 2));
  EXPECT_TRUE(placement.is_settled(0));
  placement.announce(1, held({1}, 2));
  EXPECT_TRUE(placement.is_settled(0));
  EXPECT_FALSE(placement.is_settled(1));
  EXPECT_THAT(holders(placement, 0), ElementsAre(1));
  placement.announce(0, held({0, 2, 3}, 3));
  EXPECT_TRUE(placement.is_settled(1));
  EXPECT_THAT(holders(placement, 0), ElementsAre(0));
}

TEST_F(LivePlacementTest, NorDoTheyWhenBothAnnounceAtOnce) {
  LivePlacement placement = make(2);
  placement.attach(0, held({0, 1, 2, 3}));
  placement.attach(1, held({0}));
  placement.announce(0, held({1, 2, 3}, 2));
  placement.announce(1, held({}, 2));
  EXPECT_TRUE(placement.is_covered());
  EXPECT_FALSE(placement.is_settled(0) && placement.is_settled(1));
}

TEST_F(LivePlacementTest, AnAnnouncementThatTakesItBackSettles) {
  LivePlacement placement = make(1);
  placement.attach(0, held({0, 1, 2, 3}));
  placement.announce(0, held({1, 2, 3}, 2));
  placement.announce(0, held({1, 2}, 3));
  EXPECT_FALSE(placement.is_settled(0));
  EXPECT_TRUE(placement.is_covered());  // 0 of the first and 3 of the second are kept
  placement.announce(0, held({0, 1, 2, 3}, 4));
  EXPECT_TRUE(placement.is_settled(0));
}

TEST_F(LivePlacementTest, OfALinkThatEndedNothingIsKept) {
  LivePlacement placement = make(2);
  placement.attach(0, held({0, 1}));
  placement.attach(1, held({2, 3}));
  placement.announce(0, held({1}, 2));
  placement.detach(0);
  EXPECT_EQ(placement.uncovered(), "layer 0 expert 0 is held by nobody, as are 1 more");
  placement.attach(0, held({1}));
  EXPECT_TRUE(placement.is_settled(0));
  EXPECT_EQ(placement.uncovered(), "layer 0 expert 0 is held by nobody");
}

// Whatever is announced in whatever order: what was covered stays so while nobody is lost, nobody is asked
// for what it neither announces nor must keep, and when all are settled nothing is kept.
TEST_F(LivePlacementTest, AnnouncementsNeverUncoverAnExpert) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    LivePlacement placement = make(3);
    std::vector<std::vector<int32_t>> announced(3, {0, 1, 2, 3});
    for (int32_t w = 0; w < 3; ++w) placement.attach(w, held(announced[static_cast<size_t>(w)]));
    for (uint32_t version = 2; version < 30; ++version) {
      const auto w = static_cast<size_t>(random() % 3);
      announced[w].clear();
      for (int32_t e = 0; e < 4; ++e)
        if (random() % 2 == 0) announced[w].push_back(e);
      placement.announce(static_cast<int32_t>(w), held(announced[w], version));
      if (random() % 2 == 0) continue;  // several before the table is asked for
      ASSERT_TRUE(placement.is_covered()) << "seed " << seed;
      for (int32_t e = 0; e < 4; ++e) {
        std::vector<int32_t> announcers;
        for (int32_t i = 0; i < 3; ++i)
          if (std::ranges::count(announced[static_cast<size_t>(i)], e) > 0) announcers.push_back(i);
        if (!announcers.empty()) ASSERT_EQ(holders(placement, e), announcers) << "seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace guildhall
