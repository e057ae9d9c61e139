#include "router/balance/cost_fit.h"

#include <algorithm>

namespace guildhall {
namespace {

constexpr double kKeep = 0.99;  // of the past, at every look with work: half of it counts after 69
// How much the expected ratio weighs, as part of what was seen: next to nothing where the work tells the two
// apart, everything where it does not.
constexpr double kPrior = 1e-4;

}  // namespace

void CostFit::add(const WorkSums& sums) {
  const WorkSums last = last_.value_or(WorkSums{});
  const bool is_new =
      sums.pairs < last.pairs || sums.activations < last.activations || sums.compute_ns < last.compute_ns;
  const bool has_last = last_.has_value();
  last_ = sums;
  if (!has_last || is_new) return;  // what it did before we looked may lie long ago
  const double p = static_cast<double>(sums.pairs - last.pairs) * expected_.pair_ns;
  const double a = static_cast<double>(sums.activations - last.activations) * expected_.activation_ns;
  const auto t = static_cast<double>(sums.compute_ns - last.compute_ns);
  if (p <= 0 || a <= 0 || t <= 0) return;
  for (double* sum : {&pp_, &pa_, &aa_, &pt_, &at_, &p_, &a_, &t_}) *sum *= kKeep;
  pp_ += p * p, pa_ += p * a, aa_ += a * a, pt_ += p * t, at_ += a * t;
  p_ += p, a_ += a, t_ += t;
}

std::optional<StepCosts> CostFit::costs() const {
  if (t_ <= 0) return std::nullopt;
  const double scale = t_ / (p_ + a_);  // of both, if they stand as expected
  const double pp = pp_ * (1 + kPrior), pt = pt_ + kPrior * pp_ * scale;
  const double aa = aa_ * (1 + kPrior), at = at_ + kPrior * aa_ * scale;
  const double determinant = pp * aa - pa_ * pa_;  // above 0, for the prior
  double pair = (pt * aa - at * pa_) / determinant, activation = (at * pp - pt * pa_) / determinant;
  // The best that is not negative has the negative one at 0.
  if (pair < 0) pair = 0, activation = at / aa;
  if (activation < 0) activation = 0, pair = pt / pp;
  return StepCosts{.pair_ns = std::max(0.0, pair) * expected_.pair_ns,
                   .activation_ns = std::max(0.0, activation) * expected_.activation_ns};
}

}  // namespace guildhall
