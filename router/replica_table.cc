#include "router/replica_table.h"

#include <algorithm>

#include "base/check.h"

namespace guildhall {

ReplicaTable::ReplicaTable(ExpertGrid grid)
    : grid_(std::move(grid)), num_experts_(static_cast<size_t>(grid_.num_experts)) {
  build({});
}

void ReplicaTable::build(std::span<const std::vector<const ExpertsOfLayer*>> held_w) {
  const size_t num_layers = grid_.is_moe_layer.size(), size = num_layers * num_experts_;
  const auto for_each = [&](auto&& action) {
    for (size_t w = 0; w < held_w.size(); ++w)
      for (const ExpertsOfLayer* experts_l : held_w[w])
        for (size_t layer = 0; layer < experts_l->size(); ++layer)
          for (const int32_t expert : (*experts_l)[layer])
            action(index(layer, static_cast<size_t>(expert)), static_cast<int32_t>(w));
  };
  begin_le_.assign(size + 1, 0);
  for_each([&](size_t i, int32_t) { ++begin_le_[i + 1]; });
  for (size_t i = 0; i < size; ++i) begin_le_[i + 1] += begin_le_[i];
  next_le_.assign(begin_le_.begin(), begin_le_.end());
  replicas_.resize(begin_le_.back());
  for_each([&](size_t i, int32_t worker) { replicas_[next_le_[i]++] = {.worker = worker}; });

  worker_le_.assign(size, kNobody);
  has_several_l_.assign(num_layers, false);
  num_uncovered_ = 0;
  for (size_t layer = 0; layer < num_layers; ++layer) {
    if (!grid_.is_moe_layer[layer]) continue;
    for (size_t e = 0; e < num_experts_; ++e) {
      const size_t i = index(layer, e);
      const uint32_t count = begin_le_[i + 1] - begin_le_[i];
      if (count == 1) worker_le_[i] = replicas_[begin_le_[i]].worker;
      if (count > 1) worker_le_[i] = kSeveral, has_several_l_[layer] = true;
      if (count == 0 && num_uncovered_++ == 0)
        first_uncovered_ = {static_cast<int64_t>(layer), static_cast<int64_t>(e)};
    }
  }
}

LayerReplicas ReplicaTable::layer(int64_t layer) const {
  const auto l = static_cast<size_t>(layer);
  GH_CHECK(grid_.is_moe_layer[l]);
  return {.worker_e = std::span(worker_le_).subspan(index(l, 0), num_experts_),
          .begin_e = std::span(begin_le_).subspan(index(l, 0), num_experts_ + 1),
          .replicas = replicas_,
          .has_several = has_several_l_[l]};
}

}  // namespace guildhall
