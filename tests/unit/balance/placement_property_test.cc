// Over 10,000 random instances, every policy: each constraint holds, and no layer gets slower.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "router/balance/layer_search.h"
#include "router/balance/policies.h"
#include "tests/unit/balance/balance_fixture.h"

namespace guildhall {
namespace {

constexpr int kInstances = 10'000;

class Instance {
 public:
  explicit Instance(uint64_t seed) : random_(seed) {
    num_experts_ = between(1, 24);
    const int64_t num_workers = between(1, 8);
    for (int64_t w = 0; w < num_workers; ++w) {
      workers.slots_w.push_back(static_cast<int32_t>(between(0, num_experts_)));
      workers.speed_w.push_back(static_cast<double>(between(1, 4)) / 2);
      workers.node_w.push_back(static_cast<int32_t>(std::min(w, between(0, 3))));
    }
    for (size_t w = 0; workers.slots() < num_experts_; w = (w + 1) % workers.size())
      if (workers.slots_w[w] < num_experts_) ++workers.slots_w[w];
    const int64_t num_layers = between(1, 3);
    loads.num_steps = 50;
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      moe_layers_.push_back(between(0, 4) > 0);
      loads.load_le.emplace_back();
      for (int64_t e = 0; moe_layers_.back() && e < num_experts_; ++e) loads.load_le.back().push_back(load());
    }
    static constexpr std::array<int64_t, 4> kGroups{1, 2, 3, 4};
    options.num_groups = kGroups[static_cast<size_t>(between(0, 3))];
    if (between(0, 1)) options.max_moves = between(0, 12);
  }

  // Any valid placement: the even one, with experts dropped and copied at random.
  ReplicaPlacement placement() {
    const ReplicaPlacement even = even_placement(moe_layers_, num_experts_, workers, 7);
    std::vector<LayerSlots> expert_lws;
    for (int64_t layer = 0; layer < even.num_layers(); ++layer) {
      LayerSlots expert_ws = even.layer(layer);
      for (size_t w = 0; w < expert_ws.size(); ++w)
        while (expert_ws[w].size() < static_cast<size_t>(workers.slots_w[w]) && between(0, 3) > 0) {
          const auto e = static_cast<int32_t>(between(0, num_experts_ - 1));
          const bool held = std::find(expert_ws[w].begin(), expert_ws[w].end(), e) != expert_ws[w].end();
          expert_ws[w].push_back(held ? kEmptySlot : e);
        }
      expert_lws.push_back(std::move(expert_ws));
    }
    return ReplicaPlacement::create(7, num_experts_, static_cast<int64_t>(workers.size()),
                                    std::move(expert_lws))
        .value();
  }

  // A worker loses or gains slots, so that the placement may not fit any more.
  void change_slots() {
    for (size_t w = 0; w < workers.size(); ++w)
      workers.slots_w[w] = static_cast<int32_t>(between(0, num_experts_));
    for (size_t w = 0; workers.slots() < num_experts_; w = (w + 1) % workers.size())
      if (workers.slots_w[w] < num_experts_) ++workers.slots_w[w];
  }

  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }

  Loads loads;
  BalanceWorkers workers;
  PolicyOptions options;

 private:
  ExpertLoad load() {
    const int64_t active = between(0, 4) == 0 ? 0 : between(0, 50);
    const int64_t decode_active = between(0, active);
    const int64_t scale = between(0, 5) == 0 ? 100 : 5;
    return {.prefill_tokens = (active - decode_active) * between(1, scale),
            .decode_tokens = decode_active * between(1, scale),
            .active_steps = active,
            .decode_active_steps = decode_active};
  }

  std::mt19937_64 random_;
  int64_t num_experts_ = 0;
  std::vector<bool> moe_layers_;
};

// The slowest worker's time by the policy's own measure.
double slowest(Policy policy, const std::vector<ExpertLoad>& load_e, const LayerSlots& expert_ws,
               const BalanceWorkers& workers) {
  const LayerCost cost(
      load_e, policy == Policy::activation ? LayerCost::Kind::decode_activations : LayerCost::Kind::tokens);
  LayerSearch search(cost, workers, {});
  search.start_from(expert_ws);
  return search.max_time();
}

constexpr std::array kAll{Policy::keep, Policy::eplb, Policy::eplb_node, Policy::activation,
                          Policy::incremental};

TEST(PlacementProperty, HoldsEveryConstraintAndIsNeverWorse) {
  for (int i = 0; i < kInstances; ++i) {
    Instance instance(static_cast<uint64_t>(i) + 1);
    const Policy policy = kAll[static_cast<size_t>(i) % kAll.size()];
    SCOPED_TRACE(testing::Message() << "instance " << i << " " << to_string(policy));
    const ReplicaPlacement current = instance.placement();
    const Proposal proposal = propose(policy, instance.loads, instance.workers, current, instance.options);
    ASSERT_EQ(broken_constraint(proposal.placement, instance.workers), "");
    int64_t moves = 0;
    for (const int64_t layer_moves : moves_per_layer(current, proposal.placement)) moves += layer_moves;
    if (policy == Policy::incremental) {
      ASSERT_LE(moves, instance.options.max_moves);
    }
    if (policy == Policy::keep) {
      ASSERT_EQ(moves, 0);
    }
    for (int64_t layer = 0; layer < current.num_layers(); ++layer) {
      if (!current.has_experts(layer)) continue;
      const auto& load_e = instance.loads.load_le[static_cast<size_t>(layer)];
      const double before = slowest(policy, load_e, current.layer(layer), instance.workers);
      const double after = slowest(policy, load_e, proposal.placement.layer(layer), instance.workers);
      ASSERT_LE(after, before * (1 + 1e-9));
    }
  }
}

TEST(PlacementProperty, RepairsWhatNoLongerFits) {
  for (int i = 0; i < kInstances; ++i) {
    Instance instance(static_cast<uint64_t>(i) + 1'000'000);
    const Policy policy = kAll[static_cast<size_t>(i) % kAll.size()];
    SCOPED_TRACE(testing::Message() << "instance " << i << " " << to_string(policy));
    const ReplicaPlacement current = instance.placement();
    instance.change_slots();
    const Proposal proposal = propose(policy, instance.loads, instance.workers, current, instance.options);
    ASSERT_EQ(broken_constraint(proposal.placement, instance.workers), "");
  }
}

}  // namespace
}  // namespace guildhall
