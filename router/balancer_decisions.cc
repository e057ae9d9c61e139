// balancer_decisions.cc: the decisions of the balancer: from the newest loads to experts that are to move.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/units.h"
#include "router/balancer.h"

namespace guildhall {
namespace {

constexpr int64_t kPartsOfWindow = 8;  // one of them is the least that a decision looks at

int64_t count_moves(const ReplicaPlacement& from, const ReplicaPlacement& to) {
  int64_t num = 0;
  for (const int64_t layer : moves_per_layer(from, to)) num += layer;
  return num;
}

void append(std::vector<std::string>& reasons, const std::vector<std::string>& more) {
  reasons.insert(reasons.end(), more.begin(), more.end());
}

}  // namespace

// A decision is due.
void Balancer::decide(Clock::time_point now) {
  next_decision_ = now + options_.interval;
  if (!settled())
    return skip("workers are not ready: " + workers_that([](const BalancedWorker& w) { return !w.ready; }));
  const Result<BalanceWorkers> workers = slots();
  if (workers.has_error()) return skip(workers.error().message);
  if (const auto measured = cluster_.costs()) costs_ = *measured;
  const ServedSteps served = cluster_.served();
  loads_stand_still_ = served.steps - served_.steps > options_.window_steps / kPartsOfWindow &&
                       served.counted == steps_counted_;
  if (loads_stand_still_) return skip("no loads come");
  decide_on(served, *workers, now);
  steps_counted_ = served.counted;
  if (!execution_) served_ = served;
}

void Balancer::skip(std::string why) {
  log_debug("no_decision", "reason=\"{}\"", why);
  waits_for_ = std::move(why);
}

void Balancer::decide_on(const ServedSteps& served, const BalanceWorkers& workers, Clock::time_point now) {
  waits_for_.clear();
  last_decision_ = now;
  DecisionRecord record{
      .number = ++num_decisions_, .at = now, .policy = std::string(to_string(options_.policy))};
  const auto version = static_cast<uint32_t>(2 * record.number);  // below that of what is proposed
  const ReplicaPlacement current = to_placement(held_, version).value();
  const HeldExperts fewer = options_.observe ? held_ : trimmed(held_, workers);
  const ReplicaPlacement base = to_placement(fewer, version).value();
  if (!(fewer == held_)) record.reasons.push_back("replicas beyond the workers' slots go");
  const Loads loads = cluster_.window();
  const bool has_news = served.counted != steps_counted_ &&
                        loads.num_steps >= std::max<int64_t>(1, options_.window_steps / kPartsOfWindow);
  if (options_.policy == Policy::keep || !has_news) {
    record.outcome = has_news ? DecisionOutcome::kept : DecisionOutcome::idle;
    return carry_out(std::move(record), current, base, workers, now);
  }
  PolicyOptions policy_options = options_.policy_options;
  policy_options.max_moves = options_.gate.most_moves();
  GateOptions gate = options_.gate;
  gate.expert_bytes = model_.expert_bytes;
  const Proposal proposal = propose(options_.policy, loads, workers, base, policy_options);
  const GateDecision decision =
      guildhall::decide(loads, workers, costs_, base, proposal.placement, was_active_, gate);
  was_active_ = decision.is_active;
  append(record.reasons, proposal.reasons);
  append(record.reasons, decision.reasons);
  record.predicted = compare(loads, current, decision.placement, workers, costs_);
  record.wait_before_ns = wait_per_step(served_, served);
  carry_out(std::move(record), current, decision.placement, workers, now);
}

void Balancer::carry_out(DecisionRecord record, const ReplicaPlacement& before, const ReplicaPlacement& after,
                         const BalanceWorkers& workers, Clock::time_point now) {
  HeldExperts target(model_.experts, after);
  if (options_.policy == Policy::keep && target == held_) return;  // nothing to tell
  record.num_moves = count_moves(before, after);
  record.moved_bytes = record.num_moves * model_.expert_bytes;
  if (!(target == held_)) {
    record.outcome = options_.observe ? DecisionOutcome::observed : DecisionOutcome::moving;
    if (options_.observe) record.reasons.push_back("nothing moves: balance.mode is observe");
    log_info("balance_decision",
             "number={} policy={} outcome={} predicted={:.1f}% balancedness=\"{:.3f} -> {:.3f}\" experts={} "
             "bytes=\"{}\" reason=\"{}\"",
             record.number, record.policy, kDecisionOutcomeNames[static_cast<size_t>(record.outcome)],
             100 * record.predicted.gain(), record.predicted.balancedness_before,
             record.predicted.balancedness_after, record.num_moves, format_bytes(record.moved_bytes),
             record.reasons.empty() ? "" : record.reasons.back());
  }
  if (record.outcome == DecisionOutcome::moving) {
    meter_.forget();
    execution_ = Execution{record.number, std::move(target), before, after, workers, now};
  } else {
    ++decisions_[static_cast<size_t>(record.outcome)];
  }
  add_record(std::move(record));
  if (execution_) go_on(now);
}

}  // namespace guildhall
