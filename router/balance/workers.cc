#include "router/balance/workers.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/check.h"
#include "base/units.h"

namespace guildhall {

int64_t BalanceWorkers::slots() const { return std::accumulate(slots_w.begin(), slots_w.end(), int64_t{0}); }

int32_t BalanceWorkers::num_nodes() const {
  return node_w.empty() ? 0 : *std::max_element(node_w.begin(), node_w.end()) + 1;
}

Result<BalanceWorkers> plan_slots(std::span<const WorkerInfo> workers, const SlotRequest& request) {
  const int64_t bytes_per_slot = request.num_layers * request.expert_bytes;  // one slot in every layer
  BalanceWorkers out;
  std::vector<int64_t> most_w;
  std::map<std::string, int32_t> node_of;
  int64_t most = 0;
  for (const WorkerInfo& worker : workers) {
    GH_CHECK(worker.speed > 0);
    const int64_t fits = worker.memory_bytes == 0 || bytes_per_slot == 0
                             ? request.num_experts
                             : worker.memory_bytes / bytes_per_slot;
    most_w.push_back(worker.is_there ? std::min(fits, request.num_experts) : 0);
    most += most_w.back();
    out.slots_w.push_back(0);
    out.speed_w.push_back(worker.speed);
    out.node_w.push_back(node_of.emplace(worker.node, static_cast<int32_t>(node_of.size())).first->second);
  }
  if (most < request.num_experts)
    return Status{
        Code::resource_exhausted,
        fmt::format("{} experts in {} layers of {} each need {}; the {} workers' memory holds {} experts "
                    "of each layer: add workers or memory (experts.workers.memory)",
                    request.num_experts, request.num_layers, format_bytes(request.expert_bytes),
                    format_bytes(request.num_experts * bytes_per_slot),
                    std::count_if(workers.begin(), workers.end(), [](const auto& w) { return w.is_there; }),
                    most)};
  const int64_t wanted = std::min(request.num_experts + request.redundant_experts, most);
  for (int64_t i = 0; i < wanted; ++i) {
    size_t best = workers.size();
    for (size_t w = 0; w < workers.size(); ++w) {
      if (out.slots_w[w] == most_w[w]) continue;
      if (best == workers.size() ||
          (out.slots_w[w] + 1) / out.speed_w[w] < (out.slots_w[best] + 1) / out.speed_w[best])
        best = w;
    }
    ++out.slots_w[best];
  }
  return out;
}

Result<BalanceWorkers> plan_serving_slots(std::span<const WorkerInfo> workers, const SlotRequest& request) {
  std::vector<WorkerInfo> with_room(workers.begin(), workers.end());
  for (WorkerInfo& worker : with_room)
    if (worker.memory_bytes > request.expert_bytes) worker.memory_bytes -= request.expert_bytes;
  Result<BalanceWorkers> slots = plan_slots(with_room, request);
  return slots.has_error() ? plan_slots(workers, request) : slots;
}

}  // namespace guildhall
