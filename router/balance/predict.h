// predict.h: what a placement would have made of the loads of a window: balancedness and step time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "router/balance/loads.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

// What a worker of speed 1 takes for one (token, expert) pair, and for reading one expert's weights once.
struct StepCosts {
  double pair_ns = 0, activation_ns = 0;
};

// One layer's load by worker; the tokens of an expert go to its replicas alike.
struct WorkerLoads {
  std::vector<double> tokens_w;       // in the window
  std::vector<double> activations_w;  // experts' weights read in the window (loads.h, active_share)
};
WorkerLoads worker_loads(std::span<const ExpertLoad> load_e, const LayerSlots& expert_ws);

// The slowest worker's time in one layer, mean over the window's steps.
double layer_step_ns(const Loads& loads, int64_t layer, const LayerSlots& expert_ws,
                     const BalanceWorkers& workers, const StepCosts& costs);

struct Prediction {
  // Mean over max of the workers' tokens, each divided by its speed (the mean as if all were done at once);
  // 1: even, and for layers without load. Layers without experts are left out.
  std::vector<double> balancedness_l;
  // The experts' part of a step: over the layers, the slowest worker's time, mean over the window's steps.
  // A lower bound: single steps are less even than their mean.
  double step_ns = 0;

  double min_balancedness() const;
  double mean_balancedness() const;
};

Prediction predict(const Loads& loads, const ReplicaPlacement& placement, const BalanceWorkers& workers,
                   const StepCosts& costs);

}  // namespace guildhall
