// balance_status.h: what balancing is doing and has done, for people: /v1/cluster/balance, metrics, /health.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace guildhall {

// What stalls. Each is raised and taken back by the balancer itself.
enum class BalanceAlarm {
  no_decision,      // configured, and none was possible for three intervals
  no_loads,         // steps are served and no loads come
  move_stalled,     // one is under way for much longer than its bytes take
  moves_fail,       // one after the other
  experts_missing,  // nobody holds them, and no worker can take them
};
inline constexpr size_t kNumBalanceAlarms = 5;
inline constexpr std::array<std::string_view, kNumBalanceAlarms> kBalanceAlarmNames{
    "no_decision", "no_loads", "move_stalled", "moves_fail", "experts_missing"};

struct RaisedAlarm {
  BalanceAlarm alarm = BalanceAlarm::no_decision;
  std::string message;
  Clock::time_point since;
};

enum class DecisionOutcome {
  idle,       // no steps to look at
  kept,       // nothing was worth moving
  observed,   // it would move, but balance.mode says observe
  moving,     // under way
  moved,      // done
  abandoned,  // workers or settings changed meanwhile; what had moved stays where it is
  failed,     // a move failed; the same holds
};
inline constexpr size_t kNumDecisionOutcomes = 7;
inline constexpr std::array<std::string_view, kNumDecisionOutcomes> kDecisionOutcomeNames{
    "idle", "kept", "observed", "moving", "moved", "abandoned", "failed"};

// Two placements under the same loads.
struct GainFigures {
  double balancedness_before = 1,
         balancedness_after = 1;                 // mean over layers of mean / max of workers' tokens
  double step_before_ns = 0, step_after_ns = 0;  // the experts' part of a step

  double gain() const { return step_before_ns > 0 ? 1 - step_after_ns / step_before_ns : 0; }
};

struct DecisionRecord {
  uint64_t number = 0;
  Clock::time_point at;
  std::string policy;
  DecisionOutcome outcome = DecisionOutcome::kept;
  GainFigures predicted;              // of the window before
  std::optional<GainFigures> actual;  // of the window after, had it been served where experts were before
  // Mean of the engines' waiting for experts in a step, as measured: before, and in the window after.
  std::optional<double> wait_before_ns, wait_after_ns;
  int64_t num_moves = 0, moved_bytes = 0;  // experts that another worker is to get
  double moving_s = 0;                     // time it took
  std::vector<std::string> reasons;
};

struct MoveStatus {
  bool is_add = true;
  std::string worker, source;  // of adds: a worker, or "checkpoint"
  int64_t num_experts = 0, bytes = 0;
  double elapsed_s = 0, eta_s = 0;  // at the rate it is bounded to
};

struct BalanceStatus {
  std::string mode = "off";  // off | observe | active
  std::string why_off;
  std::string policy;
  double interval_s = 0, next_decision_s = 0;
  int64_t window_steps = 0;
  std::vector<MoveStatus> moves;        // under way
  std::vector<DecisionRecord> history;  // newest first, kMaxDecisions at most; the first is the last decision
  std::vector<RaisedAlarm> alarms;
  int64_t num_missing = 0;                                // experts that nobody holds
  std::array<int64_t, kNumDecisionOutcomes> decisions{};  // in all, by how they ended
  int64_t added_experts = 0, added_bytes = 0, dropped_experts = 0, failed_moves = 0;
  int64_t repaired_experts = 0;  // of added_experts: those that nobody held
  Clock::time_point now;         // when this was true
};

inline constexpr size_t kMaxDecisions = 16;

}  // namespace guildhall
