// step_clock.h: where a step's time goes, as sums and, when a trace is on, as spans. Owner: the engine
// thread; others read the sums.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "base/trace.h"

namespace guildhall {

enum class StepPart { embed, attention, gate, dense_mlp, shared_experts, dispatch, combine, logits, sample };
inline constexpr std::array kStepPartNames = std::to_array<const char*>(
    {"embed", "attention", "gate", "dense_mlp", "shared_experts", "dispatch", "combine", "logits", "sample"});
inline constexpr size_t kNumStepParts = kStepPartNames.size();

class StepClock {
 public:
  // Charges the time until it is destroyed to `part`.
  class Scope {
   public:
    Scope(StepClock& clock, StepPart part, TraceArgs about = {})
        : clock_(clock), part_(static_cast<size_t>(part)), about_(about), begin_(now_ns()) {
      about_.step = clock.step_;
    }
    ~Scope() {
      const int64_t end = now_ns();
      clock_.sums_[part_].fetch_add(end - begin_, std::memory_order_relaxed);
      if (tracing()) record_span(kStepPartNames[part_], begin_, end, about_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    StepClock& clock_;
    const size_t part_;
    TraceArgs about_;
    const int64_t begin_;
  };

  void begin_step() { ++step_; }
  int64_t step() const { return step_; }  // engine thread only

  int64_t ns(StepPart part) const { return sums_[static_cast<size_t>(part)].load(std::memory_order_relaxed); }
  int64_t exchange_ns() const { return ns(StepPart::dispatch) + ns(StepPart::combine); }
  int64_t kernel_ns() const {
    int64_t total = 0;
    for (const auto& sum : sums_) total += sum.load(std::memory_order_relaxed);
    return total - exchange_ns();
  }

 private:
  std::array<std::atomic<int64_t>, kNumStepParts> sums_{};
  int64_t step_ = 0;
};

}  // namespace guildhall
