// workers.h: what the workers can take: memory as slots for experts, relative speed, and the node they share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace guildhall {

struct WorkerInfo {
  std::string name;
  int64_t memory_bytes = 0;  // for experts; 0: no limit
  double speed = 1;          // relative; > 0
  std::string node;          // workers with one name here fail together and share a link
  bool is_there = true;      // else it gets no slots
};

struct SlotRequest {
  int64_t num_layers = 0;  // with experts
  int64_t num_experts = 0;
  int64_t redundant_experts = 0;  // slots per layer beyond one for each expert
  int64_t expert_bytes = 0;
};

// The workers as the policies see them. Every layer has the same slots.
struct BalanceWorkers {
  std::vector<int32_t> slots_w;  // per layer; 0: takes no experts (a lost worker)
  std::vector<double> speed_w;
  std::vector<int32_t> node_w;  // dense indices of the nodes

  size_t size() const { return slots_w.size(); }
  int64_t slots() const;  // of one layer over all workers
  int32_t num_nodes() const;
};

// Shares num_experts + redundant_experts slots of each layer out in proportion to speed, as far as memory
// allows and never more than num_experts to a worker. Fewer redundant slots than asked for when memory holds
// no more; resource_exhausted, with the arithmetic, when it does not hold every expert once.
Result<BalanceWorkers> plan_slots(std::span<const WorkerInfo> workers, const SlotRequest& request);

// The same for workers that serve meanwhile: where memory allows, each keeps room for one expert more,
// without which full workers cannot exchange experts (move_plan.h).
Result<BalanceWorkers> plan_serving_slots(std::span<const WorkerInfo> workers, const SlotRequest& request);

}  // namespace guildhall
