#include "router/balance/predict.h"

#include <gtest/gtest.h>

#include "tests/unit/balance/balance_fixture.h"

namespace guildhall {
namespace {

// One layer, experts with 30, 10, 20 and 0 tokens.
Loads four_experts() {
  Loads loads{.num_steps = 10};
  loads.load_le = {{}, {{30, 0, 10, 0}, {0, 10, 5, 5}, {10, 10, 10, 8}, {}}};
  return loads;
}

ReplicaPlacement placed(LayerSlots expert_ws) {
  const auto num_workers = static_cast<int64_t>(expert_ws.size());
  return ReplicaPlacement::create(1, 4, num_workers, {{}, std::move(expert_ws)}).value();
}

TEST(Predict, BalancednessIsMeanOverMaxOfTheWorkersTokens) {
  const BalanceWorkers workers = even_workers(2, 6, 1);
  const Prediction split = predict(four_experts(), placed({{0, 1}, {2, 3}}), workers, {.pair_ns = 2});
  ASSERT_EQ(split.balancedness_l.size(), 1u);  // the layer without experts is left out
  EXPECT_DOUBLE_EQ(split.balancedness_l[0], 30.0 / 40);
  EXPECT_DOUBLE_EQ(split.step_ns, 40 * 2.0 / 10);
  const Prediction shared = predict(four_experts(), placed({{0, 1}, {2, 3, 0}}), workers, {.pair_ns = 2});
  EXPECT_DOUBLE_EQ(shared.balancedness_l[0], 30.0 / 35);  // half of expert 0 each: 25 and 35
}

TEST(Predict, FasterWorkersCountForMore) {
  BalanceWorkers workers = even_workers(2, 6, 1);
  workers.speed_w = {2, 1};
  const Prediction split = predict(four_experts(), placed({{0, 1}, {2, 3}}), workers, {.pair_ns = 1});
  EXPECT_DOUBLE_EQ(split.balancedness_l[0], 1);  // 40/2 and 20/1
  EXPECT_DOUBLE_EQ(split.step_ns, 2);
}

TEST(Predict, WeightsAreReadOncePerActiveStep) {
  const BalanceWorkers workers = even_workers(2, 6, 1);
  const Prediction split = predict(four_experts(), placed({{0, 1}, {2, 3}}), workers, {.activation_ns = 100});
  EXPECT_DOUBLE_EQ(split.step_ns, 15 * 100.0 / 10);
}

TEST(Predict, WithoutLoadEveryPlacementIsEven) {
  Loads idle;
  idle.load_le = {{}, std::vector<ExpertLoad>(4)};
  const Prediction prediction =
      predict(idle, placed({{0, 1, 2, 3}, {}}), even_workers(2, 8, 1), {.pair_ns = 1});
  EXPECT_EQ(prediction.min_balancedness(), 1);
  EXPECT_EQ(prediction.step_ns, 0);
}

TEST(ActiveShare, IsWhatRandomTokensTouch) {
  EXPECT_DOUBLE_EQ(active_share(10, 10, 1), 10);
  EXPECT_DOUBLE_EQ(active_share(10, 10, 2), 5);    // one token per step: it touches one of two
  EXPECT_DOUBLE_EQ(active_share(10, 20, 2), 7.5);  // two tokens: both miss a replica with 1/4
  EXPECT_NEAR(active_share(10, 10'000, 2), 10, 1e-9);
  EXPECT_EQ(active_share(0, 0, 3), 0);
}

}  // namespace
}  // namespace guildhall
