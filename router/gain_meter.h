// gain_meter.h: what a change of placement really brought: the first window of steps that were all served
// after it, against what the same steps would have taken where experts were before.
#pragma once

#include <cstdint>
#include <optional>

#include "router/balance/predict.h"
#include "router/balance_status.h"
#include "router/balanced_cluster.h"

namespace guildhall {

GainFigures compare(const Loads& loads, const ReplicaPlacement& before, const ReplicaPlacement& after,
                    const BalanceWorkers& workers, const StepCosts& costs);

// Mean waiting per step between two looks; nothing without steps.
std::optional<double> wait_per_step(const ServedSteps& from, const ServedSteps& to);

struct ActualGain {
  uint64_t decision = 0;
  GainFigures figures;
  std::optional<double> wait_ns;  // per step
};

// One thread.
class GainMeter {
 public:
  struct Change {
    uint64_t decision = 0;
    ReplicaPlacement before, after;
    BalanceWorkers workers;
    StepCosts costs;
    ServedSteps served;  // when it was done
    int64_t window_steps = 0;
  };

  void begin(Change change) { change_ = std::move(change); }
  void forget() { change_.reset(); }
  bool is_waiting() const { return change_.has_value(); }
  // Once, when the window has no step from before the change.
  std::optional<ActualGain> look(const BalancedCluster& cluster);

 private:
  std::optional<Change> change_;
};

}  // namespace guildhall
