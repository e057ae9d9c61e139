#include "router/balance/policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "router/balance/predict.h"
#include "tests/unit/balance/balance_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

// The size the policies are made for.
constexpr int64_t kLayers = 58, kExperts = 256, kSlots = 288, kWorkers = 32;
constexpr StepCosts kTokensOnly{.pair_ns = 1};

ReplicaPlacement even(const BalanceWorkers& workers, int64_t layers = kLayers, int64_t experts = kExperts) {
  return even_placement(std::vector<bool>(static_cast<size_t>(layers), true), experts, workers, 1);
}

int64_t total_moves(const ReplicaPlacement& from, const ReplicaPlacement& to) {
  const auto moves_l = moves_per_layer(from, to);
  return std::accumulate(moves_l.begin(), moves_l.end(), int64_t{0});
}

TEST(Eplb, EvensOutLognormalLoadsWhereTheEvenSplitDoesNot) {
  const BalanceWorkers workers = even_workers(kWorkers, kSlots, 4);
  const Loads loads = lognormal_loads(kLayers, kExperts, 1, 11);
  const ReplicaPlacement start = even(workers);
  EXPECT_LE(predict(loads, start, workers, kTokensOnly).mean_balancedness(), 0.7);
  const Proposal proposal = propose(Policy::eplb, loads, workers, start, {});
  EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
  EXPECT_EQ(proposal.placement.version(), 2u);
  EXPECT_GE(predict(loads, proposal.placement, workers, kTokensOnly).min_balancedness(), 0.98);
  EXPECT_EQ(experts_on_one_node(proposal.placement, workers), 0);
}

TEST(Eplb, NeedsNoDivisibilityAndUsesEverySlot) {
  const BalanceWorkers workers = even_workers(7, 61, 3);  // 8 or 9 slots each
  const Loads loads = lognormal_loads(3, 53, 1, 5);
  const Proposal proposal = propose(Policy::eplb, loads, workers, even(workers, 3, 53), {});
  EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
  const auto experts_w = experts_per_worker(proposal.placement);
  EXPECT_EQ(std::accumulate(experts_w.begin(), experts_w.end(), int64_t{0}), 3 * 61);
  EXPECT_GE(predict(loads, proposal.placement, workers, kTokensOnly).min_balancedness(), 0.95);
}

TEST(Eplb, GivesFastWorkersMore) {
  BalanceWorkers workers = even_workers(4, 40, 2);
  workers.speed_w = {1, 2, 1, 2};
  workers.slots_w = {7, 13, 7, 13};
  const Loads loads = lognormal_loads(1, 32, 0.5, 3);
  const Proposal proposal = propose(Policy::eplb, loads, workers, even(workers, 1, 32), {});
  const WorkerLoads load = worker_loads(loads.load_le[0], proposal.placement.layer(0));
  EXPECT_GT(load.tokens_w[1], 1.5 * load.tokens_w[0]);
  EXPECT_GE(predict(loads, proposal.placement, workers, kTokensOnly).min_balancedness(), 0.9);
}

TEST(Eplb, LeavesLostWorkersEmpty) {
  BalanceWorkers workers = even_workers(4, 48, 1);
  const ReplicaPlacement start = even(workers, 2, 32);
  workers.slots_w[2] = 0;
  for (const Policy policy : {Policy::keep, Policy::eplb, Policy::activation, Policy::incremental}) {
    const Proposal proposal = propose(policy, lognormal_loads(2, 32, 1, 9), workers, start, {});
    EXPECT_EQ(broken_constraint(proposal.placement, workers), "") << to_string(policy);
    EXPECT_EQ(experts_per_worker(proposal.placement)[2], 0);
  }
}

TEST(EplbNode, KeepsAGroupsExpertsOnOneNode) {
  const BalanceWorkers workers = even_workers(16, 144, 4);
  const Loads loads = lognormal_loads(4, 128, 1, 21);
  const Proposal proposal =
      propose(Policy::eplb_node, loads, workers, even(workers, 4, 128), {.num_groups = 8});
  EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
  for (int64_t layer = 0; layer < 4; ++layer)
    for (int64_t e = 0; e < 128; ++e) {
      const auto node_of = [&](int64_t expert) {
        return workers.node_w[static_cast<size_t>(proposal.placement.replicas(layer, expert)[0].worker)];
      };
      EXPECT_EQ(node_of(e), node_of(e / 16 * 16));
      for (const Replica& replica : proposal.placement.replicas(layer, e))
        EXPECT_EQ(workers.node_w[static_cast<size_t>(replica.worker)], node_of(e));
    }
}

TEST(EplbNode, SaysWhenGroupsDoNotFitTheNodes) {
  const BalanceWorkers workers = even_workers(6, 66, 3);
  const Loads loads = lognormal_loads(2, 64, 1, 4);
  const Proposal proposal =
      propose(Policy::eplb_node, loads, workers, even(workers, 2, 64), {.num_groups = 2});
  EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
  EXPECT_THAT(proposal.reasons, testing::Contains(HasSubstr("groups do not fit")));
}

TEST(Activation, ReplicatesOnlyWhereThatLowersThePeak) {
  // Every expert is touched in every step by many tokens: replicas would only add reads.
  Loads crowded{.num_steps = 100};
  crowded.load_le.assign(
      1, std::vector<ExpertLoad>(
             16, ExpertLoad{.decode_tokens = 10'000, .active_steps = 100, .decode_active_steps = 100}));
  const BalanceWorkers workers = even_workers(4, 32, 1);
  const ReplicaPlacement start = even(workers, 1, 16);
  const Proposal none = propose(Policy::activation, crowded, workers, start, {});
  EXPECT_EQ(none.placement.version(), start.version());

  // Few tokens per step and one expert in every step: its replicas share its reads.
  Loads sparse{.num_steps = 100};
  sparse.load_le.assign(
      1, std::vector<ExpertLoad>(
             16, ExpertLoad{.decode_tokens = 10, .active_steps = 10, .decode_active_steps = 10}));
  sparse.load_le[0][3] = {.decode_tokens = 100, .active_steps = 100, .decode_active_steps = 100};
  const Proposal some = propose(Policy::activation, sparse, workers, start, {});
  EXPECT_GT(some.placement.replicas(0, 3).size(), 1u);
}

TEST(Incremental, FollowsASmallChangeWithFewMoves) {
  const BalanceWorkers workers = even_workers(kWorkers, kSlots, 4);
  const Loads loads = lognormal_loads(kLayers, kExperts, 1, 11);
  const ReplicaPlacement packed = propose(Policy::eplb, loads, workers, even(workers), {}).placement;
  for (const uint64_t seed : {1, 2, 3}) {
    const Loads later = changed(loads, 0.02, seed);
    const Proposal proposal = propose(Policy::incremental, later, workers, packed, {});
    EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
    EXPECT_LE(total_moves(packed, proposal.placement), kLayers * kSlots / 20);
    EXPECT_GE(predict(later, proposal.placement, workers, kTokensOnly).min_balancedness(), 0.97);
  }
}

TEST(Incremental, ReachesTheTargetFromAnEvenSplit) {
  const BalanceWorkers workers = even_workers(8, 80, 2);
  const Loads loads = lognormal_loads(4, 64, 1, 2);
  const ReplicaPlacement start = even(workers, 4, 64);
  const Proposal proposal = propose(Policy::incremental, loads, workers, start, {.target = 0.95});
  EXPECT_EQ(broken_constraint(proposal.placement, workers), "");
  EXPECT_GE(predict(loads, proposal.placement, workers, kTokensOnly).min_balancedness(), 0.95);
}

TEST(Incremental, KeepsWithinItsMoves) {
  const BalanceWorkers workers = even_workers(8, 80, 2);
  const Loads loads = lognormal_loads(4, 64, 1, 2);
  const ReplicaPlacement start = even(workers, 4, 64);
  double before = predict(loads, start, workers, kTokensOnly).step_ns;
  for (const int64_t max_moves : {0, 1, 5, 16}) {
    const Proposal proposal = propose(Policy::incremental, loads, workers, start, {.max_moves = max_moves});
    EXPECT_LE(total_moves(start, proposal.placement), max_moves);
    const double after = predict(loads, proposal.placement, workers, kTokensOnly).step_ns;
    if (max_moves == 0)
      EXPECT_EQ(proposal.placement.version(), start.version());
    else
      EXPECT_LT(after, before) << max_moves;
    before = after;
  }
}

TEST(Policies, EqualInputGivesEqualOutput) {
  const BalanceWorkers workers = even_workers(5, 37, 2);
  const Loads loads = lognormal_loads(3, 30, 1, 8);
  const ReplicaPlacement start = even(workers, 3, 30);
  for (const Policy policy : {Policy::eplb, Policy::eplb_node, Policy::activation, Policy::incremental}) {
    const Proposal a = propose(policy, loads, workers, start, {.num_groups = 3});
    const Proposal b = propose(policy, loads, workers, start, {.num_groups = 3});
    for (int64_t layer = 0; layer < 3; ++layer) EXPECT_EQ(a.placement.layer(layer), b.placement.layer(layer));
    EXPECT_EQ(a.reasons, b.reasons);
  }
}

TEST(Policies, KeepTheSlotOfAnExpertThatStays) {
  const BalanceWorkers workers = even_workers(6, 48, 2);
  const Loads loads = lognormal_loads(2, 40, 1, 13);
  const ReplicaPlacement first = propose(Policy::eplb, loads, workers, even(workers, 2, 40), {}).placement;
  const ReplicaPlacement second =
      propose(Policy::incremental, changed(loads, 0.3, 1), workers, first, {.target = 0.99}).placement;
  ASSERT_NE(second.version(), first.version());
  for (int64_t layer = 0; layer < 2; ++layer)
    for (int64_t e = 0; e < 40; ++e)
      for (const Replica& was : first.replicas(layer, e))
        for (const Replica& is : second.replicas(layer, e))
          EXPECT_TRUE(was.worker != is.worker || was.slot == is.slot);
}

TEST(Policies, WithoutLoadNothingMoves) {
  const BalanceWorkers workers = even_workers(4, 20, 2);
  Loads idle;
  idle.load_le.assign(2, std::vector<ExpertLoad>(16));
  const ReplicaPlacement start = even(workers, 2, 16);
  for (const Policy policy :
       {Policy::keep, Policy::eplb, Policy::eplb_node, Policy::activation, Policy::incremental})
    EXPECT_EQ(propose(policy, idle, workers, start, {.num_groups = 4}).placement.version(), start.version());
}

TEST(Policies, AreNamed) {
  for (const std::string_view name : {"static", "eplb", "eplb_node", "activation", "incremental"})
    EXPECT_EQ(to_string(parse_policy(name).value()), name);
  EXPECT_THAT(parse_policy("best").error().message, HasSubstr("'best' is not one of: static, eplb"));
}

}  // namespace
}  // namespace guildhall
