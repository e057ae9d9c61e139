// spin.h: waiting on a core for what other threads are about to do.
#pragma once

#include <cstdint>
#include <thread>

#include "base/clock.h"

namespace guildhall {

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until done() or for spin_ns; returns done().
template <class Done>
bool spin(int64_t spin_ns, Done done) {
  // A pause takes 10 to 140 cycles depending on the processor; the clock is read once per this many.
  constexpr int kPausesPerClockRead = 16;
  if (done()) return true;
  if (spin_ns <= 0) return false;
  const int64_t deadline_ns = now_ns() + spin_ns;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      cpu_pause();
      if (done()) return true;
    }
  } while (now_ns() < deadline_ns);
  return false;
}

}  // namespace guildhall
