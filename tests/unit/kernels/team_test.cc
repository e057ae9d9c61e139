// team_test.cc: every task runs exactly once, whatever the members are doing.
#include "kernels/team.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

struct TeamCase {
  int num_threads;
  int64_t spin_ns;
};
class TeamTest : public testing::TestWithParam<TeamCase> {};
INSTANTIATE_TEST_SUITE_P(Sizes, TeamTest,
                         testing::Values(TeamCase{1, 20'000}, TeamCase{2, 20'000}, TeamCase{2, 0},
                                         TeamCase{7, 0}, TeamCase{4, 1'000}),
                         [](const auto& info) {
                           return std::to_string(info.param.num_threads) + "_threads_spin_" +
                                  std::to_string(info.param.spin_ns);
                         });

TEST_P(TeamTest, RunsEveryTaskExactlyOnce) {
  Team team({GetParam().num_threads, GetParam().spin_ns});
  for (int64_t num_tasks : {0, 1, 2, 3, 10, 1000}) {
    std::vector<std::atomic<int>> count(static_cast<size_t>(num_tasks));
    team.parallel_for(num_tasks, [&](int64_t i) { count[static_cast<size_t>(i)].fetch_add(1); });
    for (const auto& c : count) ASSERT_EQ(c.load(), 1);
  }
}

TEST_P(TeamTest, WhatTasksWroteIsVisibleAfterwardsOverManyShortJobs) {
  Team team({GetParam().num_threads, GetParam().spin_ns});
  std::vector<int64_t> value(5);  // plain memory: the thread sanitizer checks the hand-over
  for (int64_t job = 0; job < 3000; ++job) {
    team.parallel_for(5, [&](int64_t i) { value[static_cast<size_t>(i)] += job; });
    ASSERT_EQ(std::accumulate(value.begin(), value.end(), int64_t{0}), 5 * job * (job + 1) / 2);
  }
}

TEST_P(TeamTest, WakesAfterSleeping) {
  Team team({GetParam().num_threads, GetParam().spin_ns});
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> done{0};
    team.parallel_for(16, [&](int64_t) { done.fetch_add(1); });
    ASSERT_EQ(done.load(), 16);
  }
}

TEST_P(TeamTest, WaitsForTasksThatOutlastTheOwnersSpin) {
  Team team({GetParam().num_threads, GetParam().spin_ns});
  std::atomic<int> done{0};
  team.parallel_for(GetParam().num_threads, [&](int64_t i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1 + 4 * i));
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), GetParam().num_threads);
}

TEST(Team, SeveralTeamsShareTooFewCores) {
  std::vector<std::thread> owners;
  std::atomic<int64_t> total{0};
  for (int owner = 0; owner < 6; ++owner) {
    owners.emplace_back([&] {
      Team team({.num_threads = 4, .spin_ns = 0});
      for (int job = 0; job < 300; ++job) team.parallel_for(8, [&](int64_t) { total.fetch_add(1); });
    });
  }
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(total.load(), 6 * 300 * 8);
}

TEST(Team, IsDestroyedWhileItsMembersSpinOrSleep) {
  for (int i = 0; i < 50; ++i) {
    Team team({.num_threads = 3, .spin_ns = i % 2 == 0 ? 0 : 1'000'000});
    if (i % 3 == 0) team.parallel_for(4, [](int64_t) {});
  }
}

TEST(TeamDeathTest, CallingItFromItsOwnTaskIsABug) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        Team team({.num_threads = 2});
        team.parallel_for(4, [&](int64_t) { team.parallel_for(1, [](int64_t) {}); });
      },
      "check failed");
}

}  // namespace
}  // namespace guildhall
