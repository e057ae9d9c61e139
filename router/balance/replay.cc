#include "router/balance/replay.h"

#include <limits>

namespace guildhall {
namespace {

constexpr int64_t kWhole = std::numeric_limits<int64_t>::max();

std::vector<bool> moe_layers(const TraceHeader& header) {
  std::vector<bool> is_moe(static_cast<size_t>(header.num_layers));
  for (const int32_t layer : header.moe_layers) is_moe[static_cast<size_t>(layer)] = true;
  return is_moe;
}

}  // namespace

Replay::Replay(const TraceHeader& header, const BalanceWorkers& workers, const ReplayOptions& options)
    : header_(header),
      workers_(workers),
      options_(options),
      placement_(even_placement(moe_layers(header), header.num_experts, workers, 1)),
      window_(header, options.window_steps),
      interval_(header, kWhole) {
  report_.balancedness_l.resize(header.moe_layers.size());
}

void Replay::add(const TraceStep& step) {
  if (!has_steps_) interval_begin_us_ = step.time_us;
  has_steps_ = true;
  if (step.time_us - interval_begin_us_ >= options_.interval_us) {
    decide_anew();
    interval_begin_us_ = step.time_us;
  }
  window_.add(step);
  interval_.add(step);
}

void Replay::measure() {
  const Loads loads = interval_.loads();
  const auto steps = static_cast<double>(loads.num_steps);
  const Prediction prediction = predict(loads, placement_, workers_, options_.costs);
  for (size_t i = 0; i < report_.balancedness_l.size(); ++i)
    report_.balancedness_l[i] += prediction.balancedness_l[i] * steps;
  report_.step_ns += prediction.step_ns * steps;
  measured_steps_ += loads.num_steps;
  interval_ = LoadWindow(header_, kWhole);
}

void Replay::decide_anew() {
  measure();
  const Loads loads = window_.loads();
  PolicyOptions policy_options = options_.policy_options;
  policy_options.max_moves = options_.gate.most_moves();
  Proposal proposal = propose(options_.policy, loads, workers_, placement_, policy_options);
  GateDecision decision =
      decide(loads, workers_, options_.costs, placement_, proposal.placement, is_active_, options_.gate);
  ++report_.num_decisions;
  is_active_ = decision.is_active;
  if (decision.placement.version() != placement_.version()) {
    ++report_.num_changes;
    report_.num_moves += decision.num_moves;
    report_.moved_bytes += decision.moved_bytes;
    placement_ = std::move(decision.placement);
  }
  report_.reasons = std::move(proposal.reasons);
  report_.reasons.insert(report_.reasons.end(), decision.reasons.begin(), decision.reasons.end());
}

ReplayReport Replay::finish() {
  if (interval_.num_steps() > 0) measure();
  if (measured_steps_ == 0) return report_;
  ReplayReport report = report_;
  for (double& balancedness : report.balancedness_l) balancedness /= static_cast<double>(measured_steps_);
  report.step_ns /= static_cast<double>(measured_steps_);
  return report;
}

}  // namespace guildhall
