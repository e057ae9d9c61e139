// expert_monitor.h: what is known of a router's experts as they run: the loads that its engines recorded,
// what its workers hold and have measured of themselves, and what follows from both: costs, and experts'
// shares of the time.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "router/balance/cost_fit.h"
#include "router/loads_message.h"
#include "router/offload_sums.h"
#include "router/routing_recorder.h"

namespace guildhall {

// A worker as its control link knows it.
struct WorkerView {
  std::string name, state;
  int64_t resident_bytes = 0;
  std::vector<std::vector<int32_t>> experts_l;  // held, ascending
  // What its process has done for all its routers since it began; absent: it has not said.
  struct Own {
    int64_t runs = 0;  // of one layer's experts
    int64_t weight_bytes = 0;
    WorkSums sums;
  };
  std::optional<Own> own;
  std::optional<OffloadSums> offload;  // of a worker that offloads, once it has said
};

// Of one router, or the sum of several that share the workers.
struct ExpertsReport {
  struct Worker {
    WorkerView view;
    double speed = 1;                // as configured
    std::optional<StepCosts> costs;  // measured
  };
  TraceHeader shape;
  std::vector<std::string> routers;  // summed here
  std::vector<std::string> missing;  // that did not answer
  int64_t window_steps = 0;          // of each router, as configured
  double window_s = 0;               // from the window's first step to now; of several the longest
  Loads loads;
  std::vector<WorkerTraffic> traffic_lw;  // [L*W]
  std::vector<Worker> workers;
  RoutingTotals totals;  // of this router alone; so trace
  RoutingTraceStatus trace;

  void add(const RouterLoads& other);

  std::span<const WorkerTraffic> traffic_w(int64_t layer) const;
  WorkerTraffic worker_traffic(size_t worker) const;  // over all layers
  // Mean over maximum of the workers' pairs, each divided by its speed (as predict.h has it); 1: even, or
  // none.
  double balancedness(int64_t layer) const;
  // Pairs of the layer's hottest expert over the mean; 1: even, or none.
  double hottest_ratio(int64_t layer) const;
  std::vector<std::vector<int32_t>> workers_of_experts(int64_t layer) const;  // [E] the workers that hold it
  // Time by the measured costs of the workers that hold it, as if they shared its tokens alike: an
  // attribution, not a measurement. None where no cost is known.
  std::optional<double> attributed_ns(const ExpertLoad& load, std::span<const int32_t> workers) const;
};

struct ExpertMonitorOptions {
  std::string router;
  RoutingOptions routing;
  std::vector<double> speed_w;
  StepCosts expected;                                // whose ratio holds where none is measured (CostFit)
  std::function<std::vector<WorkerView>()> workers;  // any thread; in the order of the configuration
};

// Any thread.
class ExpertMonitor {
 public:
  explicit ExpertMonitor(ExpertMonitorOptions options);

  RoutingRecorder& recorder() { return recorder_; }
  const RoutingRecorder& recorder() const { return recorder_; }

  // Looks at what the workers have measured. To be called about once a second.
  void sample();

  ExpertsReport report() const;
  RouterLoads loads() const;
  // Of a worker of speed 1: the mean of those measured. None: nothing was measured yet.
  std::optional<StepCosts> costs() const;

 private:
  std::vector<std::optional<StepCosts>> worker_costs() const;

  const ExpertMonitorOptions options_;
  RoutingRecorder recorder_;
  mutable std::mutex mutex_;  // guards fit_w_
  std::vector<CostFit> fit_w_;
};

}  // namespace guildhall
