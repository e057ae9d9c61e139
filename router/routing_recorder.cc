#include "router/routing_recorder.h"

#include <algorithm>

#include "base/clock.h"
#include "model/weights.h"
#include "router/balance/load_window.h"

namespace guildhall {
namespace {

RoutingWindow empty_window(const RoutingOptions& options) {
  RoutingWindow window{.loads = empty_loads(options.shape)};
  window.traffic_lw.resize(window.loads.load_le.size() * static_cast<size_t>(options.num_workers));
  return window;
}

}  // namespace

TraceHeader routing_shape(const ModelSpec& spec, const std::string& model_name) {
  TraceHeader shape{.model = model_name.substr(0, kMaxTraceName),
                    .num_layers = spec.num_layers,
                    .num_experts = spec.moe.num_experts,
                    .top_k = spec.moe.top_k,
                    .num_groups = spec.moe.gate.num_groups,
                    .expert_bytes = expert_bytes(spec),
                    .expert_params = 3 * spec.hidden * spec.moe.expert_width};
  for (int64_t layer = 0; layer < spec.num_layers; ++layer)
    if (spec.is_moe_layer[static_cast<size_t>(layer)])
      shape.moe_layers.push_back(static_cast<int32_t>(layer));
  return shape;
}

RoutingWindow& RoutingWindow::operator+=(const RoutingWindow& other) {
  loads += other.loads;
  for (size_t i = 0; i < traffic_lw.size(); ++i) traffic_lw[i] += other.traffic_lw[i];
  if (begin_ns == 0 || (other.begin_ns != 0 && other.begin_ns < begin_ns)) begin_ns = other.begin_ns;
  end_ns = std::max(end_ns, other.end_ns);
  return *this;
}

WorkerTraffic RoutingWindow::worker(size_t worker) const {
  const size_t num_workers = loads.load_le.empty() ? 0 : traffic_lw.size() / loads.load_le.size();
  WorkerTraffic sum;
  for (size_t at = worker; at < traffic_lw.size(); at += num_workers) sum += traffic_lw[at];
  return sum;
}

RoutingRecorder::RoutingRecorder(RoutingOptions options)
    : shape_(options.shape),
      num_workers_(options.num_workers),
      trace_(options.shape, std::move(options.trace)),
      window_(empty_window(options), options.window_steps) {
  totals_.traffic_w.resize(static_cast<size_t>(num_workers_));
}

void RoutingRecorder::add(const StepRouting& step) {
  if (trace_.is_recording()) trace_.add(step.trace_step());
  const int64_t now = now_ns();
  std::lock_guard lock(mutex_);
  RoutingWindow& part = window_.open_step();
  totals_.load += step.add_to(part.loads);
  const std::span<const WorkerTraffic> traffic_lw = step.traffic_lw();
  for (size_t i = 0; i < traffic_lw.size(); ++i) {
    part.traffic_lw[i] += traffic_lw[i];
    totals_.traffic_w[i % totals_.traffic_w.size()] += traffic_lw[i];
  }
  if (part.begin_ns == 0) part.begin_ns = now;
  part.end_ns = now;
  ++totals_.num_steps;
}

void RoutingRecorder::set_window_steps(int64_t window_steps) {
  std::lock_guard lock(mutex_);
  window_.set_window_steps(window_steps);
}

int64_t RoutingRecorder::window_steps() const {
  std::lock_guard lock(mutex_);
  return window_.window_steps();
}

// Closed parts of the window are shared, so that the copy is short; it is added up without the lock.
RoutingWindow RoutingRecorder::window() const {
  std::unique_lock lock(mutex_);
  const StepWindow<RoutingWindow> copy = window_;
  lock.unlock();
  return copy.sum();
}

RoutingTotals RoutingRecorder::totals() const {
  std::lock_guard lock(mutex_);
  return totals_;
}

}  // namespace guildhall
