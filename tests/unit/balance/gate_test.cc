#include "router/balance/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/balance/balance_fixture.h"

namespace guildhall {
namespace {

using testing::Contains;
using testing::HasSubstr;

// Two layers of four experts on two workers. Layer 0: 100+100 against 10+10; layer 1: 60+60 against 50+50.
class Gate : public testing::Test {
 protected:
  Gate() {
    loads.num_steps = 1;
    loads.load_le = {{{100}, {100}, {10}, {10}}, {{60}, {60}, {50}, {50}}};
  }

  GateDecision run(bool was_active = false) const {
    return decide(loads, workers, {.pair_ns = 1e6}, current, proposed, was_active, options);
  }

  static ReplicaPlacement placed(uint32_t version, LayerSlots layer0, LayerSlots layer1) {
    return ReplicaPlacement::create(version, 4, 2, {std::move(layer0), std::move(layer1)}).value();
  }

  Loads loads;
  const BalanceWorkers workers = even_workers(2, 4, 1);
  ReplicaPlacement current = placed(3, {{0, 1}, {2, 3}}, {{0, 1}, {2, 3}});
  ReplicaPlacement proposed = placed(4, {{0, 2}, {1, 3}}, {{0, 2}, {1, 3}});
  GateOptions options{.expert_bytes = 1'000'000'000};
};

TEST_F(Gate, MovesWhatPays) {
  const GateDecision decision = run();
  EXPECT_TRUE(decision.is_worthwhile);
  EXPECT_TRUE(decision.is_active);
  EXPECT_EQ(decision.placement.version(), 4u);
  EXPECT_EQ(decision.num_moves, 4);
  EXPECT_EQ(decision.moved_bytes, 4'000'000'000);
  EXPECT_DOUBLE_EQ(decision.step_before_ns, 320e6);
  EXPECT_DOUBLE_EQ(decision.step_after_ns, 220e6);
  EXPECT_DOUBLE_EQ(decision.saved_s, 600 * 100.0 / 320);
  EXPECT_DOUBLE_EQ(decision.cost_s, 1);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("it pays")));
}

TEST_F(Gate, StaysWhenTheBytesCostMoreThanTheHorizonSaves) {
  options.horizon_s = 3;
  const GateDecision decision = run();
  EXPECT_FALSE(decision.is_worthwhile);
  EXPECT_EQ(decision.placement.version(), 3u);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("does not pay")));
}

TEST_F(Gate, TakesTheBestLayersThatTheLimitsAllow) {
  options.max_moves = 3;
  const GateDecision decision = run();
  EXPECT_EQ(decision.num_moves, 2);
  EXPECT_EQ(decision.placement.layer(0), proposed.layer(0));
  EXPECT_EQ(decision.placement.layer(1), current.layer(1));
  EXPECT_EQ(decision.placement.version(), 4u);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("1 of 2 layers fit")));
  options.max_moves = 100;
  options.max_bytes = 2'999'999'999;
  EXPECT_EQ(run().num_moves, 2);
}

TEST_F(Gate, SaysWhenNoLayerFitsTheLimits) {
  options.max_moves = 1;
  const GateDecision decision = run();
  EXPECT_FALSE(decision.is_worthwhile);
  EXPECT_FALSE(decision.is_active);
  EXPECT_EQ(decision.num_moves, 0);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("takes 2 moves: raise the limits")));
}

TEST_F(Gate, StartsAtMinGainAndGoesOnToHalfOfIt) {
  options.min_gain = 0.4;  // the gain is 100/320
  EXPECT_FALSE(run(false).is_worthwhile);
  EXPECT_TRUE(run(true).is_worthwhile);
  options.min_gain = 0.7;
  EXPECT_FALSE(run(true).is_active);
}

TEST_F(Gate, ObservingMovesNothingAndSaysWhatItWould) {
  options.observe = true;
  const GateDecision decision = run();
  EXPECT_TRUE(decision.is_worthwhile);
  EXPECT_EQ(decision.num_moves, 4);
  EXPECT_EQ(decision.placement.version(), 3u);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("observing")));
}

TEST_F(Gate, LeavesLayersThatWouldBeSlower) {
  proposed = placed(4, {{0, 2}, {1, 3}}, {{0, 1}, {2, 3}});
  std::swap(current, proposed);
  const GateDecision decision = run();
  EXPECT_FALSE(decision.is_worthwhile);
  EXPECT_THAT(decision.reasons, Contains(HasSubstr("no layer would be faster")));
}

}  // namespace
}  // namespace guildhall
