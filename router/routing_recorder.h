// routing_recorder.h: what the experts of a router had to do, summed over its engines: over the newest steps,
// and since it began; and each step for a routing trace, while one is recorded.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "model/spec.h"
#include "router/balance/loads.h"
#include "router/balance/step_window.h"
#include "router/balance/trace_file.h"
#include "router/routing_trace.h"
#include "router/step_routing.h"

namespace guildhall {

// A model's experts as a trace describes them.
TraceHeader routing_shape(const ModelSpec& spec, const std::string& model_name);

// What a window holds. Layers without experts have traffic, of nothing.
struct RoutingWindow {
  Loads loads;
  std::vector<WorkerTraffic> traffic_lw;  // [L*W]
  int64_t begin_ns = 0, end_ns = 0;       // of its first and its last step, by now_ns(); 0: there are none

  RoutingWindow& operator+=(const RoutingWindow& other);
  WorkerTraffic worker(size_t worker) const;  // over all layers
};

// Since the router began.
struct RoutingTotals {
  int64_t num_steps = 0;
  ExpertLoad load;  // over all layers and experts
  std::vector<WorkerTraffic> traffic_w;
};

struct RoutingOptions {
  TraceHeader shape;
  int64_t num_workers = 0;
  int64_t window_steps = 1000;  // of all engines together
  RoutingTraceOptions trace;
};

// Any thread. A step that is added waits, if at all, until another has been added or the window has been
// copied: tens of microseconds.
class RoutingRecorder {
 public:
  explicit RoutingRecorder(RoutingOptions options);

  const TraceHeader& shape() const { return shape_; }
  int64_t num_workers() const { return num_workers_; }

  void add(const StepRouting& step);
  void set_window_steps(int64_t window_steps);
  int64_t window_steps() const;
  RoutingWindow window() const;
  RoutingTotals totals() const;
  RoutingTrace& trace() { return trace_; }
  const RoutingTrace& trace() const { return trace_; }

 private:
  const TraceHeader shape_;
  const int64_t num_workers_;
  RoutingTrace trace_;
  mutable std::mutex mutex_;  // guards what follows
  StepWindow<RoutingWindow> window_;
  RoutingTotals totals_;
};

}  // namespace guildhall
