// step_budget.h: how many tokens a step may take so that running sequences get their next token in time. A
// step's time is fitted as a + b * tokens over recent steps, which count less the older they are; prefill
// takes what the target leaves beside the decoding sequences. Owner: the engine thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace guildhall {

class StepBudget {
 public:
  // Prefill goes on by this many tokens a step, however late the steps are.
  static constexpr int64_t kLeastPrefill = 16;

  // target_itl, the time from one token of a sequence to its next: 0: no target, a step takes max_tokens.
  StepBudget(int64_t max_tokens, std::chrono::nanoseconds target_itl)
      : max_tokens_(max_tokens), target_ns_(static_cast<double>(target_itl.count())) {}

  // For a step in which num_decoding sequences wait for their next token.
  int64_t tokens(int64_t num_decoding) const;
  void record(int64_t num_tokens, int64_t step_ns);

 private:
  int64_t max_tokens_;
  double target_ns_;
  // Weighted sums over steps: 1, n, n^2, t, n*t, n being a step's tokens and t its time.
  double count_ = 0, n_ = 0, nn_ = 0, t_ = 0, nt_ = 0;
};

}  // namespace guildhall
