// load_window.h: the loads of the newest steps of a routing trace.
#pragma once

#include <cstdint>

#include "router/balance/loads.h"
#include "router/balance/step_window.h"
#include "router/balance/trace_file.h"

namespace guildhall {

// Without steps; its layers are the model's.
Loads empty_loads(const TraceHeader& header);

// One thread. Slides as step_window.h says.
class LoadWindow {
 public:
  LoadWindow(const TraceHeader& header, int64_t window_steps)
      : header_(header), window_(empty_loads(header), window_steps) {}

  void add(const TraceStep& step);
  Loads loads() const { return window_.sum(); }  // indexed by the model's layers
  int64_t num_steps() const { return window_.num_steps(); }

 private:
  TraceHeader header_;
  StepWindow<Loads> window_;
};

}  // namespace guildhall
