#include "router/balance/replica_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace guildhall {
namespace {

const std::array<Replica, 3> kReplicas{{{1, 0}, {4, 7}, {6, 2}}};
constexpr std::array<double, 7> kLoad{0, 5, 0, 0, 3, 0, 9};
constexpr std::array<int32_t, 7> kDistance{0, 2, 0, 0, 1, 0, 0};
const ReplicaCosts kCosts{kLoad, kDistance};

size_t chosen(ReplicaChoice choice, uint64_t position, uint64_t seed = 42) {
  return choose_replica(choice, {.seed = seed, .position = position, .layer = 3, .expert = 9}, kReplicas,
                        kCosts);
}

TEST(ReplicaChoice, LeastLoadedAndNearestFollowTheirCosts) {
  for (uint64_t position = 0; position < 50; ++position) {
    EXPECT_EQ(chosen(ReplicaChoice::least_loaded, position), 1u);
    EXPECT_EQ(chosen(ReplicaChoice::nearest, position), 2u);
  }
}

TEST(ReplicaChoice, HashSpreadsTokensEvenly) {
  std::array<int, 3> count{};
  for (uint64_t position = 0; position < 3000; ++position) ++count[chosen(ReplicaChoice::hash, position)];
  for (const int n : count) EXPECT_NEAR(n, 1000, 150);
}

TEST(ReplicaChoice, TiesAreSpreadByHash) {
  const std::vector<double> even(7, 1.0);
  const std::vector<int32_t> near(7, 1);
  for (const ReplicaChoice choice :
       {ReplicaChoice::least_loaded, ReplicaChoice::nearest, ReplicaChoice::power_of_two}) {
    std::array<int, 3> count{};
    for (uint64_t position = 0; position < 300; ++position)
      ++count[choose_replica(choice, {.seed = 1, .position = position}, kReplicas, {even, near})];
    for (const int n : count) EXPECT_GT(n, 50) << to_string(choice);
  }
}

TEST(ReplicaChoice, DependsOnSeedAndPositionOnly) {
  for (const ReplicaChoice choice : {ReplicaChoice::hash, ReplicaChoice::power_of_two})
    for (uint64_t position = 0; position < 50; ++position)
      EXPECT_EQ(chosen(choice, position), chosen(choice, position));
  int differ = 0;
  for (uint64_t position = 0; position < 300; ++position)
    differ += chosen(ReplicaChoice::hash, position, 1) != chosen(ReplicaChoice::hash, position, 2);
  EXPECT_GT(differ, 100);
}

TEST(ReplicaChoice, PowerOfTwoAvoidsTheMostLoaded) {
  std::array<int, 3> count{};
  for (uint64_t position = 0; position < 300; ++position)
    ++count[chosen(ReplicaChoice::power_of_two, position)];
  EXPECT_EQ(count[2], 0);  // 9 is above both others, so it loses in every pair
  EXPECT_GT(count[1], count[0]);
}

TEST(ReplicaChoice, ALostReplicaMovesOnlyItsOwnTokens) {
  const std::array<Replica, 2> left{{kReplicas[0], kReplicas[2]}};
  for (uint64_t position = 0; position < 300; ++position) {
    const TokenKey key{.seed = 42, .position = position, .layer = 3, .expert = 9};
    const Replica before = kReplicas[choose_replica(ReplicaChoice::hash, key, kReplicas, {})];
    const Replica after = left[choose_replica(ReplicaChoice::hash, key, left, {})];
    EXPECT_TRUE(before == kReplicas[1] || before == after);
  }
}

TEST(ReplicaChoice, IsNamed) {
  for (const std::string_view name : {"hash", "least_loaded", "nearest", "power_of_two"})
    EXPECT_EQ(to_string(parse_replica_choice(name).value()), name);
  EXPECT_THAT(parse_replica_choice("random").error().message, testing::HasSubstr("'random' is not one of"));
}

}  // namespace
}  // namespace guildhall
