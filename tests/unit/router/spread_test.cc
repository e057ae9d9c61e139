#include "router/spread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "router/prefix_table.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using Candidates = std::vector<SpreadCandidate>;

TEST(Spread, LeastOutstandingFirst) {
  EXPECT_THAT(rank_candidates(Candidates{{300}, {100}, {200}}, 1000), ElementsAre(1, 2, 0));
}

TEST(Spread, EqualOnesInTheirOrder) {
  EXPECT_THAT(rank_candidates(Candidates{{7}, {7}, {7}}, 1000), ElementsAre(0, 1, 2));
}

TEST(Spread, APrefixOutweighsAsManyTokensAsItSaves) {
  EXPECT_THAT(rank_candidates(Candidates{{0}, {99, 100}}, 1000), ElementsAre(1, 0));
  EXPECT_THAT(rank_candidates(Candidates{{0}, {101, 100}}, 1000), ElementsAre(0, 1));
}

TEST(Spread, OfEqualScoreWhoHoldsMore) {
  EXPECT_THAT(rank_candidates(Candidates{{0}, {100, 100}, {50, 50}}, 1000), ElementsAre(1, 2, 0));
}

TEST(Spread, APrefixOutweighsNoMoreThanTheBound) {
  EXPECT_THAT(rank_candidates(Candidates{{0}, {64, 5000}}, 64), ElementsAre(1, 0));
  EXPECT_THAT(rank_candidates(Candidates{{0}, {65, 5000}}, 64), ElementsAre(0, 1));
  EXPECT_THAT(rank_candidates(Candidates{{0}, {1, 5000}}, 0), ElementsAre(0, 1));
}

TEST(Spread, AHandicapIsLoad) {
  EXPECT_THAT(rank_candidates(Candidates{{100}, {0, 0, 101}}, 1000), ElementsAre(0, 1));
  EXPECT_THAT(rank_candidates(Candidates{{100}, {0, 0, 99}}, 1000), ElementsAre(1, 0));
  EXPECT_THAT(rank_candidates(Candidates{{0}, {0, 200, 100}}, 1000), ElementsAre(1, 0));
}

// Over random loads: the first has the least score, everybody is there once, and nobody who has the prefix is
// first with more than the bound above the least loaded.
TEST(Spread, HoldsOverRandomLoads) {
  std::mt19937 generator(7);
  const auto below = [&](int64_t bound) {
    return std::uniform_int_distribution<int64_t>(0, bound - 1)(generator);
  };
  for (int round = 0; round < 2000; ++round) {
    Candidates candidates(static_cast<size_t>(1 + below(8)));
    for (auto& c : candidates) c = {below(500), below(300), below(3) * 50};
    const int64_t bound = below(200);
    std::vector<size_t> order = rank_candidates(candidates, bound);
    const auto score = [&](size_t i) {
      const auto& c = candidates[i];
      return c.outstanding_tokens + c.handicap - std::min(c.found_tokens, bound);
    };
    EXPECT_TRUE(std::ranges::is_sorted(order, {}, score));
    for (const auto& c : candidates)
      EXPECT_LE(candidates[order[0]].outstanding_tokens + candidates[order[0]].handicap,
                c.outstanding_tokens + c.handicap + bound);
    std::ranges::sort(order);
    for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
  }
}

std::vector<PrefixKey> keys_of(int text, size_t num_blocks) {
  std::vector<int32_t> tokens(num_blocks);
  for (size_t i = 0; i < num_blocks; ++i) tokens[i] = text;
  std::vector<PrefixKey> keys;
  extend_prefix_keys(tokens, 1, "", keys);
  return keys;
}

TEST(PrefixTable, FindsLeadingBlocks) {
  PrefixTable table(100);
  table.add(keys_of(1, 4));
  EXPECT_EQ(table.num_found(keys_of(1, 4)), 4u);
  EXPECT_EQ(table.num_found(keys_of(1, 9)), 4u);
  EXPECT_EQ(table.num_found(keys_of(1, 2)), 2u);
  EXPECT_EQ(table.num_found(keys_of(2, 4)), 0u);
  EXPECT_EQ(table.num_found({}), 0u);
}

TEST(PrefixTable, TheOldestMakeWayLastBlocksFirst) {
  PrefixTable table(8);
  table.add(keys_of(1, 4));
  table.add(keys_of(2, 4));
  table.add(keys_of(1, 4));  // again: now the newest
  table.add(keys_of(3, 2));
  EXPECT_EQ(table.size(), 8u);
  EXPECT_EQ(table.num_found(keys_of(1, 4)), 4u);
  EXPECT_EQ(table.num_found(keys_of(2, 4)), 2u);
  EXPECT_EQ(table.num_found(keys_of(3, 2)), 2u);
}

TEST(PrefixTable, OneTextLargerThanTheTableKeepsItsBeginning) {
  PrefixTable table(3);
  table.add(keys_of(1, 10));
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(table.num_found(keys_of(1, 10)), 3u);
}

}  // namespace
}  // namespace guildhall
