// held_experts.h: which worker holds which expert, as it is: unlike a ReplicaPlacement it may lack experts,
// and workers that are away hold nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"
#include "router/placement.h"

namespace guildhall {

struct ExpertId {
  int32_t layer = 0, expert = 0;
  bool operator==(const ExpertId&) const = default;
};

class HeldExperts {
 public:
  HeldExperts(const ExpertGrid& grid, int64_t num_workers);
  HeldExperts(const ExpertGrid& grid, const ReplicaPlacement& placement);

  int64_t num_workers() const { return static_cast<int64_t>(total_w_.size()); }
  const ExpertGrid& grid() const { return grid_; }

  bool has(int32_t worker, ExpertId id) const { return held_wle_[at(worker, id)] != 0; }
  void put(int32_t worker, ExpertId id);
  void take(int32_t worker, ExpertId id);
  // Indices outside of the grid are left out: a worker's word is not trusted.
  void put_all(int32_t worker, const ExpertsOfLayer& experts_l);

  int32_t replicas(ExpertId id) const { return count_le_[at(0, id)]; }
  int64_t total(int32_t worker) const { return total_w_[static_cast<size_t>(worker)]; }
  std::vector<ExpertId> missing() const;  // held by nobody; by layer, then expert

  // Every expert of the grid, in order.
  template <class Visit>
  void for_each_expert(const Visit& visit) const {
    for (size_t layer = 0; layer < grid_.is_moe_layer.size(); ++layer)
      for (int64_t e = 0; grid_.is_moe_layer[layer] && e < grid_.num_experts; ++e)
        visit(ExpertId{static_cast<int32_t>(layer), static_cast<int32_t>(e)});
  }

  bool operator==(const HeldExperts& other) const { return held_wle_ == other.held_wle_; }

 private:
  size_t at(int32_t worker, ExpertId id) const {
    return (static_cast<size_t>(worker) * grid_.is_moe_layer.size() + static_cast<size_t>(id.layer)) *
               static_cast<size_t>(grid_.num_experts) +
           static_cast<size_t>(id.expert);
  }

  ExpertGrid grid_;
  std::vector<uint8_t> held_wle_;
  std::vector<int32_t> count_le_;
  std::vector<int64_t> total_w_;
};

// Experts in slots that ascend. invalid_argument, naming it, when one is missing.
Result<ReplicaPlacement> to_placement(const HeldExperts& held, uint32_t version);

// Without replicas that workers hold beyond their slots, as far as others hold them too: of the experts with
// the most replicas first.
HeldExperts trimmed(const HeldExperts& held, const BalanceWorkers& workers);

}  // namespace guildhall
