// balancer.h: the loop that keeps experts where they serve best: every interval it looks at the loads of the
// newest steps, asks the policy and the gate, moves what these say in the background, and compares what that
// brought with what was predicted. Experts that nobody holds any more are brought to workers that are there
// at once, whatever the policy. It watches itself and raises alarms. What workers announce is all it builds
// on: whatever happens, the next tick begins from what is held. Owner: the io thread; status() is for any
// thread. It has no clock: tick() brings the time.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "router/balance/gate.h"
#include "router/balance/move_plan.h"
#include "router/balance/policies.h"
#include "router/balance/workers.h"
#include "router/balance_alarms.h"
#include "router/balance_status.h"
#include "router/balanced_cluster.h"
#include "router/gain_meter.h"
#include "router/move_runner.h"

namespace guildhall {

// What never changes while it runs.
struct BalancedModel {
  ExpertGrid experts;
  int64_t expert_bytes = 0;
  StepCosts assumed_costs;  // until workers have measured them
  std::vector<WorkerInfo> workers;
};

// What the configuration may change at any time.
struct BalancerOptions {
  Policy policy = Policy::keep;
  bool observe = false;  // decides and says so, but nothing moves
  bool repair = true;    // experts that nobody holds
  int64_t redundant_experts = 0;
  int64_t window_steps = 1000;
  std::chrono::nanoseconds interval = std::chrono::seconds(30);
  PolicyOptions policy_options;
  GateOptions gate;
};

class Balancer {
 public:
  // `cluster` is borrowed.
  Balancer(BalancedCluster& cluster, BalancedModel model, BalancerOptions options, Clock::time_point now);

  // A few times a second, and when a move has ended.
  void tick(Clock::time_point now);
  // Gives up what the old options had begun; what has moved stays where it is.
  void set_options(BalancerOptions options, Clock::time_point now);

  BalanceStatus status() const;

 private:
  struct Execution {  // of a decision to move
    uint64_t decision = 0;
    HeldExperts target;
    ReplicaPlacement before, after;
    BalanceWorkers workers;
    Clock::time_point begin;
  };

  void look(Clock::time_point now);
  void take_ended(Clock::time_point now);
  void abandon(DecisionOutcome outcome, const std::string& why, Clock::time_point now);
  bool repair(Clock::time_point now);
  void go_on(Clock::time_point now);
  void finish(Clock::time_point now);
  void decide(Clock::time_point now);
  void decide_on(const ServedSteps& served, const BalanceWorkers& workers, Clock::time_point now);
  void carry_out(DecisionRecord record, const ReplicaPlacement& before, const ReplicaPlacement& after,
                 const BalanceWorkers& workers, Clock::time_point now);
  void skip(std::string why);
  void measure_gain();
  void watch(Clock::time_point now);
  void publish(Clock::time_point now);

  bool settled() const;  // no worker is on its way to being ready
  std::string workers_that(bool (*is_so)(const BalancedWorker&)) const;
  MoveLimits limits(const HeldExperts* target) const;
  Result<BalanceWorkers> slots() const;
  DecisionRecord* record_of(uint64_t decision);
  void add_record(DecisionRecord record);

  BalancedCluster& cluster_;
  const BalancedModel model_;
  BalancerOptions options_;
  StepCosts costs_;
  MoveRunner runner_;
  GainMeter meter_;
  BalanceAlarms alarms_;

  std::vector<BalancedWorker> workers_;
  std::vector<bool> was_ready_w_;  // at some time
  HeldExperts held_;
  std::vector<ExpertId> missing_;
  bool repairing_ = false;
  int64_t num_without_room_ = 0;
  int64_t repaired_experts_ = 0;

  std::optional<Execution> execution_;
  Clock::time_point next_decision_, last_decision_;
  Clock::time_point measured_by_;  // the next decision waits so long for the last one's gain
  uint64_t num_decisions_ = 0;
  bool was_active_ = false;    // the gate's hysteresis
  std::string waits_for_;      // why no decision was possible; empty: one was
  ServedSteps served_;         // at the last decision or the end of its moves
  int64_t steps_counted_ = 0;  // at the last decision
  bool loads_stand_still_ = false;
  std::deque<DecisionRecord> history_;  // newest first
  std::array<int64_t, kNumDecisionOutcomes> decisions_{};

  mutable std::mutex mutex_;  // guards status_
  BalanceStatus status_;
};

}  // namespace guildhall
