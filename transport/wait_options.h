// wait_options.h: how Exchange::wait spends its time (transport.wait in the configuration).
#pragma once

#include <chrono>

namespace guildhall {

enum class WaitMode {
  adaptive,  // spin for `spin`, then sleep until the fabric or wake() says so
  spin,      // never sleep: lowest latency, a whole core; for machines with cores to spare
};

struct WaitOptions {
  WaitMode mode = WaitMode::adaptive;
  // Adaptive only. Short, because the frame waited for may come from a process that needs this core.
  std::chrono::nanoseconds spin = std::chrono::microseconds(20);
};

// Longer waits return early, as wait() may; keeps deadlines from overflowing.
inline constexpr std::chrono::hours kLongestWait{1};

}  // namespace guildhall
