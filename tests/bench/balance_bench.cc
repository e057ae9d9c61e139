// balance_bench.cc: how long a policy takes for 58 layers x 256 experts in 288 slots on 32 workers, on one
// core, and what it reaches; how long a router takes to follow an announcement of one of those workers.
#include <benchmark/benchmark.h>

#include <numeric>

#include "router/balance/policies.h"
#include "router/balance/predict.h"
#include "router/live_placement.h"
#include "tests/unit/balance/balance_fixture.h"

namespace {

using namespace guildhall;

constexpr int64_t kLayers = 58, kExperts = 256, kSlots = 288, kWorkers = 32, kNodes = 4;

struct Setup {
  BalanceWorkers workers = even_workers(kWorkers, kSlots, kNodes);
  Loads loads = lognormal_loads(kLayers, kExperts, 1, 11);
  ReplicaPlacement even = even_placement(std::vector<bool>(kLayers, true), kExperts, workers, 1);
  PolicyOptions options{.num_groups = 8};
};

void run(benchmark::State& state, Policy policy, const Setup& setup, const Loads& loads,
         const ReplicaPlacement& current) {
  for (auto _ : state)
    benchmark::DoNotOptimize(propose(policy, loads, setup.workers, current, setup.options));
  const Proposal proposal = propose(policy, loads, setup.workers, current, setup.options);
  const auto moves_l = moves_per_layer(current, proposal.placement);
  const Prediction before = predict(loads, current, setup.workers, {.pair_ns = 1});
  const Prediction after = predict(loads, proposal.placement, setup.workers, {.pair_ns = 1});
  state.counters["moved_%"] =
      100.0 * static_cast<double>(std::accumulate(moves_l.begin(), moves_l.end(), int64_t{0})) /
      static_cast<double>(kLayers * kSlots);
  state.counters["min_before"] = before.min_balancedness();
  state.counters["min_after"] = after.min_balancedness();
  state.counters["mean_before"] = before.mean_balancedness();
  state.counters["mean_after"] = after.mean_balancedness();
}

void from_even_split(benchmark::State& state, Policy policy) {
  const Setup setup;
  run(state, policy, setup, setup.loads, setup.even);
}

void after_two_percent(benchmark::State& state, Policy policy) {
  const Setup setup;
  const ReplicaPlacement packed =
      propose(Policy::eplb, setup.loads, setup.workers, setup.even, setup.options).placement;
  run(state, policy, setup, changed(setup.loads, 0.02, 1), packed);
}

void announcement(benchmark::State& state) {
  const Setup setup;
  LivePlacement live({std::vector<bool>(kLayers, true), kExperts}, kWorkers);
  std::vector<Holdings> held_w(kWorkers, {1, ExpertsOfLayer(kLayers)});
  for (int64_t layer = 0; layer < kLayers; ++layer)
    for (int32_t e = 0; e < kExperts; ++e)
      for (const Replica& replica : setup.even.replicas(layer, e))
        held_w[static_cast<size_t>(replica.worker)].experts_l[static_cast<size_t>(layer)].push_back(e);
  for (int32_t w = 0; w < kWorkers; ++w) live.attach(w, held_w[static_cast<size_t>(w)]);
  for (auto _ : state) {
    live.announce(0, held_w[0]);
    benchmark::DoNotOptimize(live.table().num_uncovered());
  }
}

BENCHMARK(announcement)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(from_even_split, eplb, Policy::eplb)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(from_even_split, eplb_node, Policy::eplb_node)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(from_even_split, activation, Policy::activation)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(from_even_split, incremental, Policy::incremental)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_two_percent, eplb, Policy::eplb)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_two_percent, incremental, Policy::incremental)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
