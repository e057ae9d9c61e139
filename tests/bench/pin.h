// pin.h: keeps a process on one core, so that the two ends of a timed exchange never share one.
#pragma once

#include <sched.h>

#include "base/check.h"

namespace guildhall {

inline void pin_to_core(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  GH_CHECK(sched_setaffinity(0, sizeof cores, &cores) == 0);
}

}  // namespace guildhall
