#include "router/placement.h"

namespace guildhall {

ExpertGrid expert_grid(const ModelSpec& spec) { return {spec.is_moe_layer, spec.moe.num_experts}; }

int64_t count_experts(const ExpertsOfLayer& experts_l) {
  int64_t num = 0;
  for (const auto& experts : experts_l) num += static_cast<int64_t>(experts.size());
  return num;
}

ExpertsOfLayer Placement::experts_of(int32_t worker) const {
  ExpertsOfLayer experts(worker_le.size());
  for (size_t layer = 0; layer < worker_le.size(); ++layer)
    for (size_t e = 0; e < worker_le[layer].size(); ++e)
      if (worker_le[layer][e] == worker) experts[layer].push_back(static_cast<int32_t>(e));
  return experts;
}

Placement even_split(const ModelSpec& spec, int64_t num_workers, uint32_t version) {
  Placement placement{.version = version, .num_workers = num_workers};
  placement.worker_le.resize(static_cast<size_t>(spec.num_layers));
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    if (!spec.is_moe_layer[static_cast<size_t>(layer)]) continue;
    auto& worker_e = placement.worker_le[static_cast<size_t>(layer)];
    for (int64_t e = 0; e < spec.moe.num_experts; ++e)
      worker_e.push_back(static_cast<int32_t>(((e + 1) * num_workers - 1) / spec.moe.num_experts));
  }
  return placement;
}

}  // namespace guildhall
