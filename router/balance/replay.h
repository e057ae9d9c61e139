// replay.h: what a policy would have made of a routing trace: every interval it sees the window before, the
// gate decides, and the steps that follow are measured under the placement that is then in force.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "router/balance/gate.h"
#include "router/balance/load_window.h"
#include "router/balance/policies.h"
#include "router/balance/predict.h"
#include "router/balance/trace_file.h"

namespace guildhall {

struct ReplayOptions {
  Policy policy = Policy::keep;
  PolicyOptions policy_options;
  GateOptions gate;
  StepCosts costs;
  int64_t window_steps = 1000;
  uint64_t interval_us = 30'000'000;
};

struct ReplayReport {
  // Mean over the intervals, weighted by their steps, of what predict() says of the interval's own loads.
  std::vector<double> balancedness_l;  // layers with experts
  double step_ns = 0;
  int64_t num_decisions = 0, num_changes = 0;
  int64_t num_moves = 0, moved_bytes = 0;
  std::vector<std::string> reasons;  // of the last decision: the policy's, then the gate's
};

// One thread. Moves take effect at once: a trace does not say how long they would take.
class Replay {
 public:
  // `workers` is borrowed. Starts from the even placement.
  Replay(const TraceHeader& header, const BalanceWorkers& workers, const ReplayOptions& options);

  void add(const TraceStep& step);
  ReplayReport finish();
  const ReplicaPlacement& placement() const { return placement_; }

 private:
  void measure();
  void decide_anew();

  const TraceHeader header_;
  const BalanceWorkers& workers_;
  const ReplayOptions options_;
  ReplicaPlacement placement_;
  LoadWindow window_;    // what a decision sees
  LoadWindow interval_;  // since the last decision
  uint64_t interval_begin_us_ = 0;
  bool has_steps_ = false, is_active_ = false;
  int64_t measured_steps_ = 0;
  ReplayReport report_;
};

}  // namespace guildhall
