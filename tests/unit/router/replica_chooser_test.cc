#include "router/replica_chooser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace guildhall {
namespace {

using ::testing::ElementsAre;

// Two layers of four experts on three workers: w0 holds 0, 1 and 3; w1 holds 2 and 3; w2 holds 1, 2 and 3.
class ReplicaChooserTest : public ::testing::Test {
 protected:
  ReplicaChooserTest() {
    const std::vector<const ExpertsOfLayer*> held_w[] = {{&w0_}, {&w1_}, {&w2_}};
    table_.build(held_w);
  }

  // Every pair's worker, row by row.
  std::vector<int32_t> route(ReplicaChooser& chooser, const std::vector<int32_t>& expert_tk,
                             const RowOwners& owners = {}, int64_t top_k = 1, int64_t layer = 0) {
    const LayerReplicas replicas = table_.layer(layer);
    const auto rows = static_cast<int64_t>(expert_tk.size()) / top_k;
    chooser.begin(layer, replicas, owners, {expert_tk.data(), rows, top_k});
    std::vector<int32_t> workers;
    for (size_t i = 0; i < expert_tk.size(); ++i) {
      const int32_t only = replicas.worker_e[static_cast<size_t>(expert_tk[i])];
      workers.push_back(only >= 0 ? only : chooser.choose(static_cast<int64_t>(i) / top_k, expert_tk[i]));
    }
    return workers;
  }

  static std::array<int, 3> counts(const std::vector<int32_t>& workers) {
    std::array<int, 3> count{};
    for (const int32_t w : workers) ++count[static_cast<size_t>(w)];
    return count;
  }

  const ExpertsOfLayer w0_ = {{0, 1, 3}, {0, 1, 3}}, w1_ = {{2, 3}, {2, 3}}, w2_ = {{1, 2, 3}, {1, 2, 3}};
  ReplicaTable table_{{{true, true}, 4}};
};

TEST_F(ReplicaChooserTest, LeastLoadedCountsWhatOneAloneCanDoBeforeItChooses) {
  ReplicaChooser chooser({.choice = ReplicaChoice::least_loaded}, 3);
  // The last two tokens go to w0 in any case, so the first two do not.
  EXPECT_THAT(route(chooser, {1, 1, 0, 0}), ElementsAre(2, 2, 0, 0));
  EXPECT_THAT(counts(route(chooser, {3, 3, 3, 3, 3, 3})), ElementsAre(2, 2, 2));
  EXPECT_THAT(counts(route(chooser, {3, 3, 3})), ElementsAre(1, 1, 1));  // nothing is left of before
}

TEST_F(ReplicaChooserTest, AFasterWorkerGetsMore) {
  ReplicaChooser chooser({.choice = ReplicaChoice::least_loaded, .speed_w = {1, 1, 4}}, 3);
  EXPECT_THAT(counts(route(chooser, std::vector<int32_t>(60, 3))), ElementsAre(10, 10, 40));
}

TEST_F(ReplicaChooserTest, TheNearestIsTakenWhateverItsLoad) {
  ReplicaChooser chooser({.choice = ReplicaChoice::nearest, .distance_w = {2, 2, 1}}, 3);
  EXPECT_THAT(counts(route(chooser, std::vector<int32_t>(20, 3))), ElementsAre(0, 0, 20));
  EXPECT_THAT(route(chooser, {0}), ElementsAre(0));
}

TEST_F(ReplicaChooserTest, PowerOfTwoEvensOutWhatTheHashDoesNot) {
  const std::vector<int32_t> tokens(300, 3);
  ReplicaChooser by_hash({.choice = ReplicaChoice::hash}, 3),
      of_two({.choice = ReplicaChoice::power_of_two}, 3);
  const auto spread = [](std::array<int, 3> count) {
    return std::ranges::max(count) - std::ranges::min(count);
  };
  EXPECT_GT(spread(counts(route(by_hash, tokens))), 0);
  EXPECT_LE(spread(counts(route(of_two, tokens))), spread(counts(route(by_hash, tokens))));
}

// Who else is in the batch, and where, does not matter.
TEST_F(ReplicaChooserTest, TheHashIsOfTheRequestsSeedAndTheTokensPosition) {
  ReplicaChooser chooser({.choice = ReplicaChoice::hash}, 3);
  const std::vector<uint64_t> seed_s = {7, 8};
  std::vector<int32_t> sequence_t(40), position_t(40);
  for (int32_t t = 0; t < 40; ++t)
    sequence_t[static_cast<size_t>(t)] = t / 20, position_t[static_cast<size_t>(t)] = t % 20;
  const std::vector<int32_t> tokens(40, 3);
  const std::vector<int32_t> both = route(chooser, tokens, {seed_s, sequence_t, position_t});

  const std::vector<uint64_t> second = {8};
  const std::vector<int32_t> zeros(20);
  const std::vector<int32_t> alone =
      route(chooser, std::vector<int32_t>(20, 3), {second, zeros, std::span(position_t).first(20)});
  EXPECT_EQ(std::vector<int32_t>(both.begin() + 20, both.end()), alone);
  EXPECT_NE(std::vector<int32_t>(both.begin(), both.begin() + 20), alone);
  EXPECT_NE(route(chooser, tokens, {seed_s, sequence_t, position_t}, 1, /*layer=*/1), both);
}

}  // namespace
}  // namespace guildhall
