// fake_cluster.h: the cluster, the loads and the clock, as the tests want them. Moves end when a test says
// so.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "router/balancer.h"

namespace guildhall {

// Holds what it is told; a move changes that when it ends.
class FakeCluster final : public BalancedCluster {
 public:
  struct Pending {
    bool is_add = true;
    MoveRequest request;
    MoveDone done;
  };

  std::vector<BalancedWorker> workers() const override { return workers_; }
  Loads window() const override { return loads_; }
  ServedSteps served() const override { return served_; }
  std::optional<StepCosts> costs() const override { return costs_; }
  void add_experts(MoveRequest request, MoveDone done) override;
  void drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) override;

  // The oldest move under way ends. Drops are announced when they begin, as workers do.
  void end_one();
  void fail_one(const Status& why);

  std::vector<BalancedWorker> workers_;
  Loads loads_;  // of a window
  ServedSteps served_;
  std::optional<StepCosts> costs_;
  std::deque<Pending> pending_;
};

inline constexpr int64_t kExpertBytes = 1000;

// One layer of 8 experts, four workers with two each. Experts 0 and 1 are hot, so worker 0 is.
class BalancerTest : public testing::Test {
 protected:
  BalancerTest();

  Balancer& balancer();  // made from options_ and model_ when first asked for
  void serve(int64_t num_steps);
  void pass(std::chrono::nanoseconds time);  // and a tick
  void decide() { pass(options_.interval); }
  // Ends moves, and those that follow, until none is under way.
  int end_all();
  BalanceStatus status() { return balancer().status(); }
  DecisionRecord last() { return status().history.at(0); }
  std::string alarms();  // names of those raised, joined
  int64_t held() const;  // (worker, expert) pairs of workers that are ready
  bool everything_held() const;
  void lose(size_t worker);
  void come_back(size_t worker);

  FakeCluster cluster_;
  BalancedModel model_;
  BalancerOptions options_;
  Clock::time_point now_{std::chrono::hours(1)};

 private:
  std::optional<Balancer> balancer_;
};

}  // namespace guildhall
