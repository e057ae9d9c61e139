// move_runner.h: the moves under way: begins them, takes in how they end, and leaves workers that failed
// alone for a while.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "router/balance/move_plan.h"
#include "router/balance_status.h"
#include "router/balanced_cluster.h"

namespace guildhall {

struct MoveTotals {
  int64_t added_experts = 0, added_bytes = 0, dropped_experts = 0, failed_moves = 0;
};

struct EndedMove {
  ExpertMove move;
  MoveOutcome outcome;
  bool worker_lost() const {
    return outcome.result.has_error() && outcome.result.error().code == Code::peer_lost;
  }
};

// Owner: the io thread.
class MoveRunner {
 public:
  // `cluster` is borrowed. Moves that are still under way at the end are forgotten.
  MoveRunner(BalancedCluster& cluster, std::vector<std::string> worker_names, int64_t expert_bytes);

  // bytes_per_s 0: as fast as it goes.
  void begin(ExpertMove move, int64_t bytes_per_s, Clock::time_point now);
  // What has ended since the last call.
  std::vector<EndedMove> collect(Clock::time_point now);

  std::span<const ExpertMove> under_way() const { return under_way_; }
  std::vector<MoveStatus> status(Clock::time_point now) const;
  // Says which move is overdue, if one is.
  std::optional<std::string> stalled(Clock::time_point now) const;
  // False for a while after a move to it failed: longer with each failure in a row.
  bool may_ask(int32_t worker, Clock::time_point now) const;
  int32_t failures_in_a_row() const { return failures_; }
  const MoveTotals& totals() const { return totals_; }

 private:
  struct Details {
    uint64_t id = 0;
    Clock::time_point begin;
    int64_t bytes_per_s = 0;
  };
  struct Report {
    uint64_t id = 0;
    MoveOutcome outcome;
  };
  void count(const EndedMove& ended, Clock::time_point now);
  std::string describe(const ExpertMove& move) const;
  std::chrono::nanoseconds expected(size_t at) const;
  std::chrono::nanoseconds allowed(size_t at) const;

  BalancedCluster& cluster_;
  const std::vector<std::string> names_;
  const int64_t expert_bytes_;
  std::vector<ExpertMove> under_way_;
  std::vector<Details> details_;                  // of under_way_
  std::shared_ptr<std::vector<Report>> reports_;  // outlives this in callbacks
  std::vector<int32_t> failures_w_;               // in a row
  std::vector<Clock::time_point> ask_again_w_;
  int32_t failures_ = 0;
  uint64_t next_id_ = 1;
  MoveTotals totals_;
};

}  // namespace guildhall
