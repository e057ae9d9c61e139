// balance_fixture.h: loads, workers and checks that the balancing tests share. All from seeds.
#pragma once

#include <random>
#include <string>

#include "router/balance/loads.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

// Tokens of each expert lognormal with this sigma, a mean of about 1000.
Loads lognormal_loads(int64_t num_layers, int64_t num_experts, double sigma, uint64_t seed);
// Each count times (1 + change * a normal number).
Loads changed(const Loads& loads, double change, uint64_t seed);

// `total` slots shared out evenly; workers [n*W/N, (n+1)*W/N) on node n; speed 1.
BalanceWorkers even_workers(int64_t num_workers, int64_t total_slots, int64_t num_nodes);

// Empty when every expert is held, none twice by a worker, and no worker has more than its slots; else what
// is wrong.
std::string broken_constraint(const ReplicaPlacement& placement, const BalanceWorkers& workers);

// Experts with several replicas that are all on one node.
int64_t experts_on_one_node(const ReplicaPlacement& placement, const BalanceWorkers& workers);

}  // namespace guildhall
