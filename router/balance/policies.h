// policies.h: the balancing policies: pure functions from loads, workers and the current placement to a
// proposed one, with reasons in words.
//
//   static       keeps what is there
//   eplb         replicates the hottest experts, then packs; replicas of one expert go to several nodes
//   eplb_node    the same inside each node, for models that route by groups: a group's experts share a node
//                (both after DeepSeek's EPLB, github.com/deepseek-ai/EPLB: "global" and "hierarchical")
//   activation   evens out the weights read per decode step: replicas spread tokens, but each that is touched
//                reads its weights (the aim of METRO, arXiv 2512.09277)
//   incremental  the fewest moves, greedily, that reach a target balancedness
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "router/balance/loads.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

enum class Policy { keep, eplb, eplb_node, activation, incremental };

std::string_view to_string(Policy policy);  // "static", "eplb", ...
Result<Policy> parse_policy(std::string_view name);

struct PolicyOptions {
  int64_t num_groups = 1;  // of the model's gate; experts [g*E/G, (g+1)*E/G) are group g
  double target = 0.98;    // incremental: balancedness of each layer at which to stop
  int64_t max_moves = std::numeric_limits<int64_t>::max();  // incremental: over all layers
};

struct Proposal {
  ReplicaPlacement placement;  // the current one itself, or one with the next version
  std::vector<std::string> reasons;
};

// Every expert is held, none twice by a worker, and no worker has more than its slots. No layer is worse, by
// the policy's own measure, than in `current`, where that respects the workers' slots; such a layer stays as
// it is. `current` has the loads' layers and the workers' number of workers; the slots of a layer hold every
// expert (plan_slots). Equal input, equal output.
Proposal propose(Policy policy, const Loads& loads, const BalanceWorkers& workers,
                 const ReplicaPlacement& current, const PolicyOptions& options);

// Experts [w*E/W, (w+1)*E/W) of each layer on worker w as far as its slots go, the rest in free slots: where
// balancing starts. moe_layers[layer]: whether it has experts.
ReplicaPlacement even_placement(const std::vector<bool>& moe_layers, int64_t num_experts,
                                const BalanceWorkers& workers, uint32_t version);

}  // namespace guildhall
