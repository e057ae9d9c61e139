// load_window.h: the loads of the newest steps of a routing trace, or of a router as it runs.
#pragma once

#include <cstdint>
#include <deque>

#include "router/balance/loads.h"
#include "router/balance/trace_file.h"

namespace guildhall {

// One thread. The window slides by eighths: it holds the newest 7/8 to 8/8 of window_steps (once there were
// that many), so that memory does not grow with its length.
class LoadWindow {
 public:
  LoadWindow(const TraceHeader& header, int64_t window_steps);

  void add(const TraceStep& step);
  Loads loads() const;  // indexed by the model's layers
  int64_t num_steps() const;

 private:
  Loads empty() const;

  TraceHeader header_;
  int64_t steps_per_part_;
  std::deque<Loads> parts_;  // oldest first; the last is being filled
};

}  // namespace guildhall
