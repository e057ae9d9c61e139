#include "router/step_budget.h"

#include <algorithm>

namespace guildhall {
namespace {

constexpr double kKeep = 0.97;  // of a step's weight, with each newer step: some 30 steps count

}  // namespace

void StepBudget::record(int64_t num_tokens, int64_t step_ns) {
  const auto n = static_cast<double>(num_tokens), t = static_cast<double>(step_ns);
  count_ = kKeep * count_ + 1;
  n_ = kKeep * n_ + n, nn_ = kKeep * nn_ + n * n;
  t_ = kKeep * t_ + t, nt_ = kKeep * nt_ + n * t;
}

int64_t StepBudget::tokens(int64_t num_decoding) const {
  if (target_ns_ == 0 || num_decoding == 0 || count_ == 0) return max_tokens_;
  const double mean_n = n_ / count_, mean_t = t_ / count_;
  const double variance = nn_ / count_ - mean_n * mean_n, covariance = nt_ / count_ - mean_n * mean_t;
  // Steps of one size say nothing about a and b apart: all of their time is taken to be for tokens.
  const bool alike = variance < 0.01 * mean_n * mean_n || covariance <= 0;
  const double b = alike ? mean_t / mean_n : covariance / variance;
  const double a = std::max(0.0, mean_t - b * mean_n);
  const double fits = std::clamp((target_ns_ - a) / b, 0.0, static_cast<double>(max_tokens_));
  return std::clamp(static_cast<int64_t>(fits), std::min(max_tokens_, num_decoding + kLeastPrefill),
                    max_tokens_);
}

}  // namespace guildhall
