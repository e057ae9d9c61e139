#include "router/balance/held_experts.h"

#include <algorithm>

namespace guildhall {

HeldExperts::HeldExperts(const ExpertGrid& grid, int64_t num_workers)
    : grid_(grid),
      held_wle_(static_cast<size_t>(num_workers) * grid.is_moe_layer.size() *
                static_cast<size_t>(grid.num_experts)),
      count_le_(grid.is_moe_layer.size() * static_cast<size_t>(grid.num_experts)),
      total_w_(static_cast<size_t>(num_workers)) {}

HeldExperts::HeldExperts(const ExpertGrid& grid, const ReplicaPlacement& placement)
    : HeldExperts(grid, placement.num_workers()) {
  for (int64_t layer = 0; layer < placement.num_layers(); ++layer) {
    const LayerSlots& expert_ws = placement.layer(layer);
    for (size_t w = 0; w < expert_ws.size(); ++w)
      for (const int32_t e : expert_ws[w])
        if (e != kEmptySlot) put(static_cast<int32_t>(w), {static_cast<int32_t>(layer), e});
  }
}

void HeldExperts::put(int32_t worker, ExpertId id) {
  uint8_t& held = held_wle_[at(worker, id)];
  if (held) return;
  held = 1, ++count_le_[at(0, id)], ++total_w_[static_cast<size_t>(worker)];
}

void HeldExperts::take(int32_t worker, ExpertId id) {
  uint8_t& held = held_wle_[at(worker, id)];
  if (!held) return;
  held = 0, --count_le_[at(0, id)], --total_w_[static_cast<size_t>(worker)];
}

void HeldExperts::put_all(int32_t worker, const ExpertsOfLayer& experts_l) {
  const size_t num_layers = std::min(experts_l.size(), grid_.is_moe_layer.size());
  for (size_t layer = 0; layer < num_layers; ++layer)
    for (const int32_t e : experts_l[layer])
      if (grid_.is_moe_layer[layer] && e >= 0 && e < grid_.num_experts)
        put(worker, {static_cast<int32_t>(layer), e});
}

std::vector<ExpertId> HeldExperts::missing() const {
  std::vector<ExpertId> none;
  for_each_expert([&](ExpertId id) {
    if (replicas(id) == 0) none.push_back(id);
  });
  return none;
}

Result<ReplicaPlacement> to_placement(const HeldExperts& held, uint32_t version) {
  const ExpertGrid& grid = held.grid();
  std::vector<LayerSlots> expert_lws(grid.is_moe_layer.size());
  for (size_t layer = 0; layer < expert_lws.size(); ++layer)
    if (grid.is_moe_layer[layer]) expert_lws[layer].resize(static_cast<size_t>(held.num_workers()));
  held.for_each_expert([&](ExpertId id) {
    for (int32_t w = 0; w < held.num_workers(); ++w)
      if (held.has(w, id))
        expert_lws[static_cast<size_t>(id.layer)][static_cast<size_t>(w)].push_back(id.expert);
  });
  return ReplicaPlacement::create(version, grid.num_experts, held.num_workers(), std::move(expert_lws));
}

HeldExperts trimmed(const HeldExperts& held, const BalanceWorkers& workers) {
  HeldExperts out = held;
  const ExpertGrid& grid = held.grid();
  for (size_t layer = 0; layer < grid.is_moe_layer.size(); ++layer)
    for (int32_t w = 0; grid.is_moe_layer[layer] && w < held.num_workers(); ++w) {
      std::vector<ExpertId> here;
      for (int32_t e = 0; e < grid.num_experts; ++e)
        if (const ExpertId id{static_cast<int32_t>(layer), e}; out.has(w, id)) here.push_back(id);
      std::stable_sort(here.begin(), here.end(),
                       [&](ExpertId a, ExpertId b) { return out.replicas(a) > out.replicas(b); });
      auto excess = static_cast<int64_t>(here.size()) - workers.slots_w[static_cast<size_t>(w)];
      for (const ExpertId id : here) {
        if (excess <= 0 || out.replicas(id) < 2) break;
        out.take(w, id), --excess;
      }
    }
  return out;
}

}  // namespace guildhall
