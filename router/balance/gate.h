// gate.h: whether a proposed placement is worth its moves: time saved over a horizon against the cost of the
// bytes, within limits per interval, with hysteresis. A pure function that says why in words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "router/balance/loads.h"
#include "router/balance/predict.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

struct GateOptions {
  double min_gain =
      0.05;  // of the predicted step time. Balancing that is under way goes on down to half of it
  double horizon_s = 600;  // a placement is expected to be right for this long
  int64_t max_moves = std::numeric_limits<int64_t>::max();  // experts per decision
  int64_t max_bytes = std::numeric_limits<int64_t>::max();  // per decision
  int64_t expert_bytes = 0;
  // While experts arrive, steps take `slowdown` longer, at this rate. For both the operator's measure.
  double move_bytes_per_s = 1e9;
  double slowdown = 0.25;
  bool observe = false;  // decides and says so, but nothing moves

  // What max_moves and max_bytes allow together.
  int64_t most_moves() const {
    return expert_bytes > 0 ? std::min(max_moves, max_bytes / expert_bytes) : max_moves;
  }
};

struct GateDecision {
  bool is_worthwhile = false;  // the moves pay
  bool is_active = false;      // what the next decision's was_active is to be
  ReplicaPlacement
      placement;  // from now on: the current one, or with as many proposed layers as the limits allow
  int64_t num_moves = 0, moved_bytes = 0;        // of `placement` against the current one
  double step_before_ns = 0, step_after_ns = 0;  // as predicted: now, and with what the limits allow
  double saved_s = 0, cost_s = 0;                // over the horizon, while all of it is spent in steps
  std::vector<std::string> reasons;
};

// Layers change whole, in the order of time saved per expert moved, as far as the limits go.
GateDecision decide(const Loads& loads, const BalanceWorkers& workers, const StepCosts& costs,
                    const ReplicaPlacement& current, const ReplicaPlacement& proposed, bool was_active,
                    const GateOptions& options);

}  // namespace guildhall
