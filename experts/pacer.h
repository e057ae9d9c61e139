// pacer.h: spreads bytes over time: over any time T no more than T times the rate, and one piece. One thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace guildhall {

class Pacer {
 public:
  explicit Pacer(int64_t bytes_per_s) : bytes_per_s_(bytes_per_s) {}  // 0: no bound

  // Takes a piece of `bytes`: how long to wait, at `now`, before it may move.
  std::chrono::nanoseconds take(int64_t bytes, Clock::time_point now) {
    if (bytes_per_s_ == 0) return {};
    const Clock::time_point begin = std::max(now, free_at_);
    const std::chrono::duration<double> lasts(static_cast<double>(bytes) / static_cast<double>(bytes_per_s_));
    free_at_ = begin + std::chrono::duration_cast<Clock::duration>(std::min(lasts, kLongest));
    return begin - now;
  }

 private:
  static constexpr std::chrono::duration<double> kLongest = std::chrono::hours(24);  // no overflow

  const int64_t bytes_per_s_;
  Clock::time_point free_at_{};  // when the pieces before have passed
};

}  // namespace guildhall
