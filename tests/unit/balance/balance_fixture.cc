#include "tests/unit/balance/balance_fixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace guildhall {

Loads lognormal_loads(int64_t num_layers, int64_t num_experts, double sigma, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Loads loads{.num_steps = 1000};
  loads.load_le.resize(static_cast<size_t>(num_layers));
  for (auto& load_e : loads.load_le)
    for (int64_t e = 0; e < num_experts; ++e) {
      const auto tokens = static_cast<int64_t>(1000 * std::exp(sigma * normal(random) - sigma * sigma / 2));
      const int64_t active = std::min<int64_t>(tokens, 1000);
      load_e.push_back({.prefill_tokens = tokens / 2,
                        .decode_tokens = tokens - tokens / 2,
                        .active_steps = active,
                        .decode_active_steps = std::min(active, tokens - tokens / 2)});
    }
  return loads;
}

Loads changed(const Loads& loads, double change, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Loads out = loads;
  for (auto& load_e : out.load_le)
    for (ExpertLoad& load : load_e)
      load.prefill_tokens = std::max<int64_t>(
          0, std::llround(static_cast<double>(load.tokens()) * (1 + change * normal(random))) -
                 load.decode_tokens);
  return out;
}

BalanceWorkers even_workers(int64_t num_workers, int64_t total_slots, int64_t num_nodes) {
  BalanceWorkers workers;
  for (int64_t w = 0; w < num_workers; ++w) {
    workers.slots_w.push_back(
        static_cast<int32_t>((w + 1) * total_slots / num_workers - w * total_slots / num_workers));
    workers.speed_w.push_back(1);
    workers.node_w.push_back(static_cast<int32_t>(w * num_nodes / num_workers));
  }
  return workers;
}

std::string broken_constraint(const ReplicaPlacement& placement, const BalanceWorkers& workers) {
  for (int64_t layer = 0; layer < placement.num_layers(); ++layer) {
    if (!placement.has_experts(layer)) continue;
    const LayerSlots& expert_ws = placement.layer(layer);
    std::set<int32_t> all;
    for (size_t w = 0; w < expert_ws.size(); ++w) {
      if (expert_ws[w].size() > static_cast<size_t>(workers.slots_w[w]))
        return fmt::format("layer {} worker {}: {} slots of {}", layer, w, expert_ws[w].size(),
                           workers.slots_w[w]);
      std::set<int32_t> own;
      for (const int32_t e : expert_ws[w]) {
        if (e == kEmptySlot) continue;
        if (e < 0 || e >= placement.num_experts()) return fmt::format("layer {}: expert {}", layer, e);
        if (!own.insert(e).second) return fmt::format("layer {} worker {}: expert {} twice", layer, w, e);
        all.insert(e);
      }
    }
    if (static_cast<int64_t>(all.size()) != placement.num_experts())
      return fmt::format("layer {}: {} experts of {}", layer, all.size(), placement.num_experts());
  }
  return "";
}

int64_t experts_on_one_node(const ReplicaPlacement& placement, const BalanceWorkers& workers) {
  int64_t found = 0;
  for (int64_t layer = 0; layer < placement.num_layers(); ++layer)
    for (int64_t e = 0; placement.has_experts(layer) && e < placement.num_experts(); ++e) {
      const auto replicas = placement.replicas(layer, e);
      const auto node = [&](const Replica& r) { return workers.node_w[static_cast<size_t>(r.worker)]; };
      found += replicas.size() > 1 && std::all_of(replicas.begin(), replicas.end(), [&](const Replica& r) {
                 return node(r) == node(replicas[0]);
               });
    }
  return found;
}

}  // namespace guildhall
