#include "router/gain_meter.h"

namespace guildhall {

GainFigures compare(const Loads& loads, const ReplicaPlacement& before, const ReplicaPlacement& after,
                    const BalanceWorkers& workers, const StepCosts& costs) {
  const Prediction then = predict(loads, before, workers, costs);
  const Prediction now = predict(loads, after, workers, costs);
  return {.balancedness_before = then.mean_balancedness(),
          .balancedness_after = now.mean_balancedness(),
          .step_before_ns = then.step_ns,
          .step_after_ns = now.step_ns};
}

std::optional<double> wait_per_step(const ServedSteps& from, const ServedSteps& to) {
  if (to.steps <= from.steps) return std::nullopt;
  return static_cast<double>(to.wait_ns - from.wait_ns) / static_cast<double>(to.steps - from.steps);
}

std::optional<ActualGain> GainMeter::look(const BalancedCluster& cluster) {
  if (!change_) return std::nullopt;
  const ServedSteps served = cluster.served();
  const int64_t since = served.counted - change_->served.counted;
  if (since < change_->window_steps) return std::nullopt;
  const Loads loads = cluster.window();
  if (since < loads.num_steps || loads.num_steps == 0) return std::nullopt;
  ActualGain gain{
      .decision = change_->decision,
      .figures = compare(loads, change_->before, change_->after, change_->workers, change_->costs),
      .wait_ns = wait_per_step(change_->served, served)};
  change_.reset();
  return gain;
}

}  // namespace guildhall
