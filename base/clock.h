// clock.h: the monotonic clock every deadline and duration is measured on.
#pragma once

#include <chrono>
#include <cstdint>

namespace guildhall {

using Clock = std::chrono::steady_clock;

inline int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

}  // namespace guildhall
