#include "router/replica_chooser.h"

#include <algorithm>

#include "base/check.h"

namespace guildhall {

ReplicaChooser::ReplicaChooser(ReplicaRules rules, int64_t num_workers)
    : choice_(rules.choice),
      by_load_(choice_ == ReplicaChoice::least_loaded || choice_ == ReplicaChoice::power_of_two),
      distance_w_(std::move(rules.distance_w)) {
  const auto num = static_cast<size_t>(num_workers);
  pair_cost_w_.assign(num, 1.0);
  GH_CHECK(rules.speed_w.empty() || rules.speed_w.size() == num);
  for (size_t w = 0; w < rules.speed_w.size(); ++w) pair_cost_w_[w] = 1 / rules.speed_w[w];
  distance_w_.resize(num);
}

void ReplicaChooser::begin(int64_t layer, const LayerReplicas& replicas, const RowOwners& owners,
                           View2<const int32_t> expert_tk) {
  layer_ = static_cast<int32_t>(layer);
  replicas_ = replicas;
  owners_ = owners;
  if (!replicas.has_several || !by_load_) return;
  load_w_.assign(pair_cost_w_.size(), 0);
  for (int64_t i = 0; i < expert_tk.rows * expert_tk.cols; ++i) {
    const int32_t worker = replicas.worker_e[static_cast<size_t>(expert_tk.data[i])];
    if (worker >= 0) load_w_[static_cast<size_t>(worker)] += pair_cost_w_[static_cast<size_t>(worker)];
  }
}

int32_t ReplicaChooser::choose(int64_t token, int32_t expert) {
  const std::span<const Replica> candidates = replicas_.of(expert);
  const size_t chosen = choose_replica(choice_, key(token, expert), candidates, {load_w_, distance_w_});
  const auto worker = static_cast<size_t>(candidates[chosen].worker);
  if (by_load_) load_w_[worker] += pair_cost_w_[worker];
  return candidates[chosen].worker;
}

TokenKey ReplicaChooser::key(int64_t token, int32_t expert) const {
  const auto t = static_cast<size_t>(token);
  if (owners_.position_t.empty())
    return {.position = static_cast<uint64_t>(token), .layer = layer_, .expert = expert};
  return {.seed = owners_.seed_s[static_cast<size_t>(owners_.sequence_t[t])],
          .position = static_cast<uint64_t>(owners_.position_t[t]),
          .layer = layer_,
          .expert = expert};
}

}  // namespace guildhall
