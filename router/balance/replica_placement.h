// replica_placement.h: which workers hold which expert, any number of replicas each: an immutable, versioned
// table. router/placement.h is the same with one replica per expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "router/placement.h"

namespace guildhall {

inline constexpr int32_t kEmptySlot = -1;

// expert_ws[worker][slot]: the expert there, or kEmptySlot. Without workers: a layer without experts.
using LayerSlots = std::vector<std::vector<int32_t>>;

struct Replica {
  int32_t worker = 0, slot = 0;
  bool operator==(const Replica&) const = default;
};

class ReplicaPlacement {
 public:
  // Refuses a layer whose experts are not all [0, num_experts), a layer that misses one, and an expert that
  // is twice on one worker; the error names layer, worker and expert.
  static Result<ReplicaPlacement> create(uint32_t version, int64_t num_experts, int64_t num_workers,
                                         std::vector<LayerSlots> expert_lws);

  // One replica per expert, in slots that ascend with the expert.
  static ReplicaPlacement from(const Placement& placement);
  // The first replica of each expert (the lowest worker).
  Placement first_replicas() const;

  uint32_t version() const { return version_; }
  int64_t num_layers() const { return static_cast<int64_t>(expert_lws_.size()); }
  int64_t num_workers() const { return num_workers_; }
  int64_t num_experts() const { return num_experts_; }
  bool has_experts(int64_t layer) const { return !expert_lws_[static_cast<size_t>(layer)].empty(); }

  const LayerSlots& layer(int64_t layer) const { return expert_lws_[static_cast<size_t>(layer)]; }
  // By ascending worker; never empty in a layer with experts.
  std::span<const Replica> replicas(int64_t layer, int64_t expert) const;

 private:
  ReplicaPlacement() = default;

  uint32_t version_ = 0;
  int64_t num_experts_ = 0, num_workers_ = 0;
  std::vector<LayerSlots> expert_lws_;
  // Replicas of (layer, expert): replicas_[begin_le_[l*E + e] .. begin_le_[l*E + e + 1]).
  std::vector<Replica> replicas_;
  std::vector<uint32_t> begin_le_;
};

// Experts that `to` has on a worker where `from` has not: what a change of placement loads. Per layer.
std::vector<int64_t> moves_per_layer(const ReplicaPlacement& from, const ReplicaPlacement& to);

// Occupied slots of each worker over all layers; times the bytes of an expert: its memory.
std::vector<int64_t> experts_per_worker(const ReplicaPlacement& placement);

}  // namespace guildhall
