// balanced_cluster.h: what the balancer sees of the cluster and asks of it. Its own interface, so that tests
// play the cluster and the clock.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "router/balance/loads.h"
#include "router/balance/predict.h"
#include "router/cluster.h"

namespace guildhall {

struct BalancedWorker {
  bool ready = false;    // it may be asked for `experts_l`
  bool loading = false;  // not ready, but it is bringing experts in
  ExpertsOfLayer experts_l;
};

// Sums since the router began.
struct ServedSteps {
  int64_t steps = 0;
  int64_t wait_ns = 0;  // of the engines, for experts' answers
  int64_t counted = 0;  // steps whose loads have been in the window, of all routers
};

// All on the io thread; `done` is called there, once, also from within the call.
class BalancedCluster {
 public:
  virtual ~BalancedCluster() = default;
  virtual std::vector<BalancedWorker> workers() const = 0;
  virtual Loads window() const = 0;  // of the newest steps, about balance.window_steps of each router
  virtual ServedSteps served() const = 0;
  virtual std::optional<StepCosts> costs() const = 0;  // as measured; none yet
  virtual void add_experts(MoveRequest request, MoveDone done) = 0;
  virtual void drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) = 0;
};

}  // namespace guildhall
