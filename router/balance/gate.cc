#include "router/balance/gate.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace guildhall {
namespace {

struct LayerGain {
  size_t layer = 0;
  int64_t moves = 0;
  double gain_ns = 0;

  double per_move() const { return gain_ns / static_cast<double>(std::max<int64_t>(moves, 1)); }
};

// Layers that the proposal makes faster, the best first.
std::vector<LayerGain> gains(const Loads& loads, const BalanceWorkers& workers, const StepCosts& costs,
                             const ReplicaPlacement& current, const ReplicaPlacement& proposed) {
  const std::vector<int64_t> moves_l = moves_per_layer(current, proposed);
  std::vector<LayerGain> out;
  for (size_t layer = 0; layer < moves_l.size(); ++layer) {
    const auto at = static_cast<int64_t>(layer);
    if (!current.has_experts(at) || current.layer(at) == proposed.layer(at)) continue;
    const double before = layer_step_ns(loads, at, current.layer(at), workers, costs);
    const double after = layer_step_ns(loads, at, proposed.layer(at), workers, costs);
    if (after < before) out.push_back({layer, moves_l[layer], before - after});
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const LayerGain& a, const LayerGain& b) { return a.per_move() > b.per_move(); });
  return out;
}

// The current placement with the layers of `gains` that the limits allow; counts what that moves.
ReplicaPlacement within_limits(const std::vector<LayerGain>& gains, const ReplicaPlacement& current,
                               const ReplicaPlacement& proposed, const GateOptions& options,
                               GateDecision& decision) {
  std::vector<LayerSlots> expert_lws;
  for (int64_t layer = 0; layer < current.num_layers(); ++layer) expert_lws.push_back(current.layer(layer));
  const int64_t most = options.most_moves();
  size_t taken = 0;
  int64_t smallest = std::numeric_limits<int64_t>::max();
  for (const LayerGain& gain : gains) {
    smallest = std::min(smallest, gain.moves);
    if (gain.moves > most - decision.num_moves) continue;
    expert_lws[gain.layer] = proposed.layer(static_cast<int64_t>(gain.layer));
    decision.num_moves += gain.moves;
    ++taken;
  }
  decision.moved_bytes = decision.num_moves * options.expert_bytes;
  if (taken < gains.size())
    decision.reasons.push_back(
        fmt::format("{} of {} layers fit in max_moves and max_bytes ({} experts per decision)", taken,
                    gains.size(), most));
  if (taken == 0 && !gains.empty())
    decision.reasons.push_back(fmt::format(
        "the smallest layer's change takes {} moves: raise the limits, or use the policy incremental, "
        "which keeps within max_moves",
        smallest));
  auto placement =
      ReplicaPlacement::create(taken == 0 ? current.version() : current.version() + 1, current.num_experts(),
                               current.num_workers(), std::move(expert_lws));
  GH_CHECK(placement.has_value());
  return *std::move(placement);
}

}  // namespace

GateDecision decide(const Loads& loads, const BalanceWorkers& workers, const StepCosts& costs,
                    const ReplicaPlacement& current, const ReplicaPlacement& proposed, bool was_active,
                    const GateOptions& options) {
  GateDecision decision{.placement = current};
  const auto found = gains(loads, workers, costs, current, proposed);
  const ReplicaPlacement next = within_limits(found, current, proposed, options, decision);
  decision.step_before_ns = predict(loads, current, workers, costs).step_ns;
  decision.step_after_ns = predict(loads, next, workers, costs).step_ns;
  if (found.empty()) {
    decision.reasons.push_back("no layer would be faster");
    return decision;
  }
  double gain_ns = 0;  // of every layer that would be faster, whatever the limits
  for (const LayerGain& layer : found) gain_ns += layer.gain_ns;
  const double gain = decision.step_before_ns > 0 ? gain_ns / decision.step_before_ns : 0;
  const double realised =
      decision.step_before_ns > 0 ? 1 - decision.step_after_ns / decision.step_before_ns : 0;
  decision.saved_s = options.horizon_s * realised;
  decision.cost_s = static_cast<double>(decision.moved_bytes) / options.move_bytes_per_s * options.slowdown;
  const double needed = was_active ? options.min_gain / 2 : options.min_gain;
  const bool gains_enough = gain >= needed;
  const bool pays = decision.saved_s > decision.cost_s;
  decision.is_active = gains_enough && pays && next.version() != current.version();
  decision.is_worthwhile = decision.is_active;
  decision.reasons.push_back(
      fmt::format("predicted gain {:.1f}% of the experts' time per step is {} the {:.1f}% that {}",
                  100 * gain, gains_enough ? "at least" : "below", 100 * needed,
                  was_active ? "keeps balancing going (half of min_gain)" : "starts balancing (min_gain)"));
  if (next.version() != current.version())
    decision.reasons.push_back(
        fmt::format("over the horizon it saves {:.3g} s; moving {} experts ({}) costs {:.3g} s: it {}",
                    decision.saved_s, decision.num_moves, format_bytes(decision.moved_bytes), decision.cost_s,
                    pays ? "pays" : "does not pay"));
  if (decision.is_worthwhile && options.observe) decision.reasons.push_back("nothing moves: observing only");
  if (decision.is_worthwhile && !options.observe) decision.placement = next;
  return decision;
}

}  // namespace guildhall
