#include "router/balance/predict.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace guildhall {

WorkerLoads worker_loads(std::span<const ExpertLoad> load_e, const LayerSlots& expert_ws) {
  std::vector<int32_t> count_e(load_e.size());
  for (const auto& experts : expert_ws)
    for (const int32_t e : experts)
      if (e != kEmptySlot) ++count_e[static_cast<size_t>(e)];
  WorkerLoads out{std::vector<double>(expert_ws.size()), std::vector<double>(expert_ws.size())};
  for (size_t w = 0; w < expert_ws.size(); ++w)
    for (const int32_t expert : expert_ws[w]) {
      if (expert == kEmptySlot) continue;
      const auto e = static_cast<size_t>(expert);
      const auto tokens = static_cast<double>(load_e[e].tokens());
      out.tokens_w[w] += tokens / count_e[e];
      out.activations_w[w] += active_share(static_cast<double>(load_e[e].active_steps), tokens, count_e[e]);
    }
  return out;
}

double Prediction::min_balancedness() const {
  return balancedness_l.empty() ? 1 : *std::min_element(balancedness_l.begin(), balancedness_l.end());
}

double Prediction::mean_balancedness() const {
  return balancedness_l.empty() ? 1
                                : std::accumulate(balancedness_l.begin(), balancedness_l.end(), 0.0) /
                                      static_cast<double>(balancedness_l.size());
}

double layer_step_ns(const Loads& loads, int64_t layer, const LayerSlots& expert_ws,
                     const BalanceWorkers& workers, const StepCosts& costs) {
  const WorkerLoads load = worker_loads(loads.load_le[static_cast<size_t>(layer)], expert_ws);
  double slowest_ns = 0;
  for (size_t w = 0; w < load.tokens_w.size(); ++w)
    slowest_ns = std::max(slowest_ns,
                          (load.tokens_w[w] * costs.pair_ns + load.activations_w[w] * costs.activation_ns) /
                              workers.speed_w[w]);
  return loads.num_steps > 0 ? slowest_ns / static_cast<double>(loads.num_steps) : 0;
}

Prediction predict(const Loads& loads, const ReplicaPlacement& placement, const BalanceWorkers& workers,
                   const StepCosts& costs) {
  GH_CHECK(static_cast<int64_t>(loads.load_le.size()) == placement.num_layers());
  const double total_speed = std::accumulate(workers.speed_w.begin(), workers.speed_w.end(), 0.0);
  Prediction out;
  for (int64_t layer = 0; layer < placement.num_layers(); ++layer) {
    if (!placement.has_experts(layer)) continue;
    const LayerSlots& expert_ws = placement.layer(layer);
    const WorkerLoads load = worker_loads(loads.load_le[static_cast<size_t>(layer)], expert_ws);
    double most = 0;
    for (size_t w = 0; w < load.tokens_w.size(); ++w)
      most = std::max(most, load.tokens_w[w] / workers.speed_w[w]);
    const double tokens = std::accumulate(load.tokens_w.begin(), load.tokens_w.end(), 0.0);
    out.balancedness_l.push_back(most <= 0 ? 1 : tokens / total_speed / most);
    out.step_ns += layer_step_ns(loads, layer, expert_ws, workers, costs);
  }
  return out;
}

}  // namespace guildhall
