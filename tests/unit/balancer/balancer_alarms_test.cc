// balancer_alarms_test.cc: balancing that stalls says so, and takes it back by itself.
#include "tests/unit/balancer/fake_cluster.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

TEST_F(BalancerTest, NoDecisionForThreeIntervalsIsAnAlarm) {
  balancer();
  cluster_.workers_[1].ready = false, cluster_.workers_[1].loading = true;
  for (int i = 0; i < 3; ++i) decide();
  EXPECT_EQ(alarms(), "");
  decide();
  EXPECT_EQ(alarms(), "no_decision");
  EXPECT_THAT(status().alarms[0].message, HasSubstr("w1"));
  cluster_.workers_[1].ready = true, cluster_.workers_[1].loading = false;
  decide();
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerTest, StartingIsNotAStall) {
  cluster_.workers_[1] = {.loading = true};
  for (int i = 0; i < 10; ++i) decide();
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerTest, BeingIdleIsNotAStall) {
  for (int i = 0; i < 10; ++i) decide();
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerTest, StepsWithoutLoadsAreAnAlarm) {
  serve(80);
  decide();
  end_all();
  cluster_.served_.steps += 80;  // and none is counted
  decide();
  decide();
  EXPECT_EQ(alarms(), "no_loads");
  serve(80);
  decide();
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerTest, AMoveThatDoesNotEndIsAnAlarm) {
  serve(80);
  decide();
  pass(std::chrono::seconds(59));
  EXPECT_EQ(alarms(), "");
  pass(std::chrono::seconds(2));
  EXPECT_EQ(alarms(), "move_stalled");
  EXPECT_THAT(status().alarms[0].message, HasSubstr("kind=add worker="));
  end_all();
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerTest, LongMovesThatGoOnAreNotAStall) {
  options_.gate.move_bytes_per_s = 10;  // an expert takes 100 s
  options_.gate.horizon_s = 1e6;
  serve(80);
  decide();
  for (int i = 0; i < 4; ++i) decide();
  EXPECT_EQ(alarms(), "");
  EXPECT_EQ(last().outcome, DecisionOutcome::moving);
}

TEST_F(BalancerTest, FailuresInARowAreAnAlarm) {
  const auto begin_moves = [&] {
    for (int wait = 0; wait < 40 && cluster_.pending_.empty(); ++wait) serve(80), decide();
    ASSERT_FALSE(cluster_.pending_.empty());
  };
  while (status().failed_moves < 3) {
    begin_moves();
    while (!cluster_.pending_.empty()) cluster_.fail_one({Code::unavailable, "disk"});
    pass(std::chrono::seconds(0));
  }
  EXPECT_EQ(alarms(), "moves_fail");
  begin_moves();
  end_all();
  EXPECT_EQ(alarms(), "");
}

}  // namespace
}  // namespace guildhall
