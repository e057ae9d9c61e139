// balancer_test.cc: decisions, their moves, and what these brought, on a cluster and a clock that the test
// plays.
#include "router/balancer.h"

#include "tests/unit/balancer/fake_cluster.h"

namespace guildhall {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::SizeIs;

TEST_F(BalancerTest, ReplicatesHotExpertsAndSaysWhatItExpects) {
  serve(80);
  pass(std::chrono::seconds(29));
  EXPECT_TRUE(cluster_.pending_.empty()) << "not due yet";
  pass(std::chrono::seconds(1));
  ASSERT_FALSE(cluster_.pending_.empty());
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
  EXPECT_GT(last().predicted.gain(), 0.3);
  EXPECT_GT(last().predicted.balancedness_after, last().predicted.balancedness_before);
  EXPECT_EQ(last().moved_bytes, last().num_moves * kExpertBytes);
  for (const auto& pending : cluster_.pending_) {
    EXPECT_TRUE(pending.is_add) << "nothing goes before another has it";
    EXPECT_EQ(pending.request.bytes_per_s, 1'000'000);
    ASSERT_TRUE(pending.request.from_worker) << "each is held by somebody";
    const auto& source = cluster_.workers_[static_cast<size_t>(*pending.request.from_worker)];
    for (const int32_t e : pending.request.experts_l[0]) EXPECT_THAT(source.experts_l[0], Contains(e));
  }
  EXPECT_THAT(status().moves, SizeIs(cluster_.pending_.size()));
  end_all();
  EXPECT_EQ(last().outcome, DecisionOutcome::moved);
  EXPECT_EQ(held(), 12) << "8 experts and 4 further replicas";
  EXPECT_EQ(status().added_experts, last().num_moves);
  EXPECT_TRUE(status().moves.empty());
}

TEST_F(BalancerTest, MeasuresWhatItReallyBroughtOnTheFirstWindowAfterwards) {
  serve(80);
  decide();
  end_all();
  serve(79);
  pass(std::chrono::seconds(1));
  EXPECT_FALSE(last().actual) << "the window still has a step from before";
  cluster_.loads_.load_le[0][7].decode_tokens = 400;  // it is not what was predicted
  serve(1);
  pass(std::chrono::seconds(1));
  ASSERT_TRUE(last().actual);
  EXPECT_GT(last().actual->gain(), 0);
  EXPECT_NE(last().actual->gain(), last().predicted.gain());
  ASSERT_TRUE(last().wait_after_ns);
  EXPECT_DOUBLE_EQ(*last().wait_after_ns, 1e6);
}

TEST_F(BalancerTest, DecidesAnewWhenTheLastGainIsKnownOrLongAwaited) {
  serve(80);
  decide();
  end_all();
  cluster_.loads_.load_le[0][7].decode_tokens = 4000;
  serve(40);
  decide();
  EXPECT_EQ(last().number, 1u) << "half a window has been served since";
  serve(40);
  decide();
  EXPECT_EQ(last().number, 2u);
  EXPECT_TRUE(status().history.at(1).actual) << "and it was measured first";
  ASSERT_EQ(last().outcome, DecisionOutcome::moving);
  end_all();
  serve(1);
  decide();
  decide();
  EXPECT_EQ(last().number, 3u);
}

TEST_F(BalancerTest, StaysWhenNothingIsWorthMoving) {
  for (ExpertLoad& load : cluster_.loads_.load_le[0]) load.decode_tokens = 100;
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::kept);
  EXPECT_TRUE(cluster_.pending_.empty());
  EXPECT_FALSE(last().reasons.empty());
}

TEST_F(BalancerTest, ObservingItDecidesTheSameAndMovesNothing) {
  options_.observe = true;
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::observed);
  EXPECT_GT(last().predicted.gain(), 0.3);
  EXPECT_GT(last().num_moves, 0);
  EXPECT_THAT(last().reasons, Contains(HasSubstr("observe")));
  EXPECT_TRUE(cluster_.pending_.empty());
  EXPECT_EQ(status().mode, "observe");
}

TEST_F(BalancerTest, WithoutStepsItWaitsForSome) {
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::idle);
  serve(9);
  cluster_.loads_.num_steps = 9;  // an eighth of a window is the least
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::idle);
  EXPECT_THAT(status().history, SizeIs(1)) << "what nothing came of is not kept one by one";
  serve(1);
  cluster_.loads_.num_steps = 10;
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
}

TEST_F(BalancerTest, AWorkerThatGoesEndsWhatWasBegun) {
  serve(80);
  decide();
  cluster_.end_one();
  lose(3);
  pass(std::chrono::seconds(1));
  EXPECT_NE(last().outcome, DecisionOutcome::moving);
  EXPECT_THAT(last().reasons, Contains(HasSubstr("a worker came or went")));
  const auto begun = cluster_.pending_.size();
  pass(std::chrono::seconds(1));
  EXPECT_GE(cluster_.pending_.size(), begun) << "what is under way ends by itself";
}

TEST_F(BalancerTest, AWorkerThatStartsIsWaitedFor) {
  cluster_.workers_[3] = {.ready = false, .loading = true};
  serve(80);
  decide();
  EXPECT_TRUE(status().history.empty());
  EXPECT_TRUE(cluster_.pending_.empty()) << "no repair either: it is about to hold them";
  cluster_.workers_[3] = {.ready = true, .experts_l = {{6, 7}}};
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
}

TEST_F(BalancerTest, AFailedMoveEndsTheDecisionAndTheNextOneWaitsLonger) {
  serve(80);
  decide();
  const size_t others = cluster_.pending_.size() - 1;
  cluster_.fail_one({Code::resource_exhausted, "needs 3 GiB, has 2"});
  pass(std::chrono::seconds(0));
  EXPECT_EQ(last().outcome, DecisionOutcome::failed);
  EXPECT_THAT(last().reasons, Contains(HasSubstr("needs 3 GiB, has 2")));
  for (size_t i = 0; i < others; ++i) cluster_.end_one();
  serve(80);
  pass(options_.interval);
  EXPECT_EQ(last().outcome, DecisionOutcome::failed) << "not yet";
  pass(options_.interval);
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
  EXPECT_EQ(status().failed_moves, 1);
}

TEST_F(BalancerTest, FullWorkersExchangeExpertsThroughTheRoomOfOne) {
  for (WorkerInfo& worker : model_.workers) worker.memory_bytes = 3 * kExpertBytes;
  options_.redundant_experts = 0;
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
  end_all();
  EXPECT_EQ(last().outcome, DecisionOutcome::moved);
  EXPECT_EQ(held(), 8);
}

TEST_F(BalancerTest, WithoutRoomItSaysSo) {
  for (WorkerInfo& worker : model_.workers) worker.memory_bytes = 2 * kExpertBytes;
  options_.redundant_experts = 0;
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::failed);
  EXPECT_THAT(last().reasons, Contains(HasSubstr("experts.workers.memory")));
  EXPECT_TRUE(everything_held());
}

TEST_F(BalancerTest, NewSettingsTakeEffectAndEndWhatTheOldOnesBegan) {
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
  options_.policy = Policy::keep;
  balancer().set_options(options_, now_);
  EXPECT_EQ(last().outcome, DecisionOutcome::abandoned);
  while (!cluster_.pending_.empty()) cluster_.end_one();
  serve(80);
  decide();
  EXPECT_EQ(status().policy, "static");
  for (const auto& pending : cluster_.pending_) EXPECT_FALSE(pending.is_add) << "only spares go";
  end_all();
  decide();
  EXPECT_TRUE(cluster_.pending_.empty());
}

TEST_F(BalancerTest, KeepsTheNewestDecisions) {
  for (ExpertLoad& load : cluster_.loads_.load_le[0]) load.decode_tokens = 100;
  for (int i = 0; i < 20; ++i) serve(80), decide();
  EXPECT_THAT(status().history, SizeIs(kMaxDecisions));
  EXPECT_EQ(last().number, 20u);
  EXPECT_EQ(status().decisions[static_cast<size_t>(DecisionOutcome::kept)], 20);
}

TEST_F(BalancerTest, GoesByMeasuredCostsWhereThereAreAny) {
  cluster_.costs_ = {.activation_ns = 1000};  // all the time goes into reading weights
  for (ExpertLoad& load : cluster_.loads_.load_le[0]) load.active_steps = 80;
  options_.redundant_experts = 0;
  serve(80);
  decide();
  EXPECT_EQ(last().outcome, DecisionOutcome::kept) << "each reads as many weights as the next";
}

}  // namespace
}  // namespace guildhall
