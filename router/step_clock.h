// step_clock.h: where a step's time goes. Owner: the engine thread; others read the sums.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace guildhall {

enum class StepPart { embed, attention, gate, dense_mlp, shared_experts, dispatch, combine, logits, sample };
inline constexpr size_t kNumStepParts = 9;

class StepClock {
 public:
  // Charges the time until it is destroyed to `part`.
  class Scope {
   public:
    Scope(StepClock& clock, StepPart part) : sum_(clock.sums_[static_cast<size_t>(part)]), begin_(now_ns()) {}
    ~Scope() { sum_.fetch_add(now_ns() - begin_, std::memory_order_relaxed); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::atomic<int64_t>& sum_;
    int64_t begin_;
  };

  int64_t ns(StepPart part) const { return sums_[static_cast<size_t>(part)].load(std::memory_order_relaxed); }
  int64_t exchange_ns() const { return ns(StepPart::dispatch) + ns(StepPart::combine); }
  int64_t kernel_ns() const {
    int64_t total = 0;
    for (const auto& sum : sums_) total += sum.load(std::memory_order_relaxed);
    return total - exchange_ns();
  }

 private:
  std::array<std::atomic<int64_t>, kNumStepParts> sums_{};
};

}  // namespace guildhall
