// cost_fit.h: what a worker takes for a pair and for an activation, as measured: least squares over what its
// sums grew by from look to look, the newer the more it counts.
#pragma once

#include <cstdint>
#include <optional>

#include "router/balance/predict.h"

namespace guildhall {

// Since the worker's process began.
struct WorkSums {
  int64_t pairs = 0, activations = 0, compute_ns = 0;
};

// One thread.
class CostFit {
 public:
  // Where the work seen does not tell the two apart (all of it of one batch size), they are taken to stand to
  // each other as in `expected`, whose scale does not matter. Both are above 0.
  explicit CostFit(const StepCosts& expected) : expected_(expected) {}

  // Sums that are below the last ones are those of a new process.
  void add(const WorkSums& sums);

  // None before any work was seen. Neither is negative.
  std::optional<StepCosts> costs() const;

 private:
  const StepCosts expected_;
  std::optional<WorkSums> last_;
  // Normal equations in units of `expected`: of pairs p and activations a, sums of p², pa, a², pt, at, p, a,
  // t.
  double pp_ = 0, pa_ = 0, aa_ = 0, pt_ = 0, at_ = 0;
  double p_ = 0, a_ = 0, t_ = 0;
};

}  // namespace guildhall
