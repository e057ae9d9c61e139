#include "router/balance/replica_placement.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace guildhall {
namespace {

Status refuse(size_t layer, std::string why) {
  return Status{Code::invalid_argument, fmt::format("placement refused: layer {}: {}", layer, why)};
}

// replicas_e[expert]: where it is, by ascending worker.
Result<std::vector<std::vector<Replica>>> replicas_of(size_t layer, const LayerSlots& expert_ws,
                                                      int64_t num_experts) {
  std::vector<std::vector<Replica>> replicas_e(static_cast<size_t>(num_experts));
  for (size_t w = 0; w < expert_ws.size(); ++w)
    for (size_t slot = 0; slot < expert_ws[w].size(); ++slot) {
      const int32_t expert = expert_ws[w][slot];
      if (expert == kEmptySlot) continue;
      if (expert < 0 || expert >= num_experts)
        return refuse(layer, fmt::format("worker {} has expert {} of {}", w, expert, num_experts));
      auto& replicas = replicas_e[static_cast<size_t>(expert)];
      if (!replicas.empty() && replicas.back().worker == static_cast<int32_t>(w))
        return refuse(layer, fmt::format("worker {} has expert {} twice", w, expert));
      replicas.push_back({static_cast<int32_t>(w), static_cast<int32_t>(slot)});
    }
  for (size_t e = 0; e < replicas_e.size(); ++e)
    if (replicas_e[e].empty()) return refuse(layer, fmt::format("expert {} is on no worker", e));
  return replicas_e;
}

}  // namespace

Result<ReplicaPlacement> ReplicaPlacement::create(uint32_t version, int64_t num_experts, int64_t num_workers,
                                                  std::vector<LayerSlots> expert_lws) {
  ReplicaPlacement placement;
  placement.version_ = version;
  placement.num_experts_ = num_experts;
  placement.num_workers_ = num_workers;
  placement.begin_le_.push_back(0);
  for (size_t layer = 0; layer < expert_lws.size(); ++layer) {
    if (expert_lws[layer].empty()) {
      placement.begin_le_.resize(placement.begin_le_.size() + static_cast<size_t>(num_experts),
                                 placement.begin_le_.back());
      continue;
    }
    if (static_cast<int64_t>(expert_lws[layer].size()) != num_workers)
      return refuse(layer,
                    fmt::format("{} workers where there are {}", expert_lws[layer].size(), num_workers));
    GH_ASSIGN(const auto replicas_e, replicas_of(layer, expert_lws[layer], num_experts));
    for (const auto& replicas : replicas_e) {
      placement.replicas_.insert(placement.replicas_.end(), replicas.begin(), replicas.end());
      placement.begin_le_.push_back(static_cast<uint32_t>(placement.replicas_.size()));
    }
  }
  placement.expert_lws_ = std::move(expert_lws);
  return placement;
}

ReplicaPlacement ReplicaPlacement::from(const Placement& placement) {
  std::vector<LayerSlots> expert_lws(placement.worker_le.size());
  int64_t num_experts = 0;
  for (size_t layer = 0; layer < expert_lws.size(); ++layer) {
    const auto& worker_e = placement.worker_le[layer];
    if (worker_e.empty()) continue;
    num_experts = static_cast<int64_t>(worker_e.size());
    expert_lws[layer].resize(static_cast<size_t>(placement.num_workers));
    for (size_t e = 0; e < worker_e.size(); ++e)
      expert_lws[layer][static_cast<size_t>(worker_e[e])].push_back(static_cast<int32_t>(e));
  }
  auto created = create(placement.version, num_experts, placement.num_workers, std::move(expert_lws));
  GH_CHECK(created.has_value());
  return *std::move(created);
}

Placement ReplicaPlacement::first_replicas() const {
  Placement placement{.version = version_, .num_workers = num_workers_};
  placement.worker_le.resize(expert_lws_.size());
  for (int64_t layer = 0; layer < num_layers(); ++layer) {
    if (!has_experts(layer)) continue;
    for (int64_t e = 0; e < num_experts_; ++e)
      placement.worker_le[static_cast<size_t>(layer)].push_back(replicas(layer, e).front().worker);
  }
  return placement;
}

std::span<const Replica> ReplicaPlacement::replicas(int64_t layer, int64_t expert) const {
  const auto at = static_cast<size_t>(layer * num_experts_ + expert);
  return std::span(replicas_).subspan(begin_le_[at], begin_le_[at + 1] - begin_le_[at]);
}

std::vector<int64_t> moves_per_layer(const ReplicaPlacement& from, const ReplicaPlacement& to) {
  GH_CHECK(from.num_layers() == to.num_layers());
  std::vector<int64_t> moves_l(static_cast<size_t>(to.num_layers()));
  std::vector<bool> held;
  for (int64_t layer = 0; layer < to.num_layers(); ++layer) {
    const LayerSlots& before = from.layer(layer);
    const LayerSlots& after = to.layer(layer);
    for (size_t w = 0; w < after.size(); ++w) {
      held.assign(static_cast<size_t>(to.num_experts()), false);
      if (w < before.size())
        for (const int32_t expert : before[w])
          if (expert != kEmptySlot) held[static_cast<size_t>(expert)] = true;
      moves_l[static_cast<size_t>(layer)] += std::count_if(after[w].begin(), after[w].end(), [&](int32_t e) {
        return e != kEmptySlot && !held[static_cast<size_t>(e)];
      });
    }
  }
  return moves_l;
}

std::vector<int64_t> experts_per_worker(const ReplicaPlacement& placement) {
  std::vector<int64_t> experts_w(static_cast<size_t>(placement.num_workers()));
  for (int64_t layer = 0; layer < placement.num_layers(); ++layer) {
    const LayerSlots& expert_ws = placement.layer(layer);
    for (size_t w = 0; w < expert_ws.size(); ++w)
      experts_w[w] += std::count_if(expert_ws[w].begin(), expert_ws[w].end(),
                                    [](int32_t expert) { return expert != kEmptySlot; });
  }
  return experts_w;
}

}  // namespace guildhall
