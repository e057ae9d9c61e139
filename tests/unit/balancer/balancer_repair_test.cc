// balancer_repair_test.cc: experts that nobody holds are brought to workers that are there, whatever the
// policy.
#include "tests/unit/balancer/fake_cluster.h"

namespace guildhall {
namespace {

class BalancerRepairTest : public BalancerTest {
 protected:
  BalancerRepairTest() { options_.policy = Policy::keep; }
  void repair_all() {
    for (int i = 0; !cluster_.pending_.empty(); ++i) {
      ASSERT_LT(i, 100);
      cluster_.end_one();
      balancer().tick(now_);
    }
  }
};

TEST_F(BalancerRepairTest, WhatALostWorkerHeldIsLoadedByTheOthersAtOnce) {
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  ASSERT_FALSE(cluster_.pending_.empty());
  for (const auto& pending : cluster_.pending_) {
    EXPECT_TRUE(pending.is_add);
    EXPECT_FALSE(pending.request.from_worker) << "nobody has it";
    EXPECT_EQ(pending.request.bytes_per_s, 0) << "requests wait";
  }
  EXPECT_EQ(status().num_missing, 2);
  repair_all();
  EXPECT_TRUE(everything_held());
  EXPECT_EQ(status().num_missing, 0);
  EXPECT_EQ(status().repaired_experts, 2);
}

TEST_F(BalancerRepairTest, WhenTheWorkerIsBackSparesGo) {
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  repair_all();
  come_back(1);
  pass(std::chrono::seconds(1));
  EXPECT_EQ(held(), 10);
  options_.redundant_experts = 0;
  balancer().set_options(options_, now_);
  decide();
  end_all();
  EXPECT_EQ(held(), 8);
  EXPECT_TRUE(everything_held());
}

TEST_F(BalancerRepairTest, AWorkerThatIsLoadingAgainIsWaitedFor) {
  balancer();
  lose(1);
  cluster_.workers_[1].loading = true;
  pass(std::chrono::milliseconds(250));
  EXPECT_TRUE(cluster_.pending_.empty());
  cluster_.workers_[1].loading = false;  // it died again
  pass(std::chrono::milliseconds(250));
  EXPECT_FALSE(cluster_.pending_.empty());
}

TEST_F(BalancerRepairTest, ComesBackWhileRepairIsUnderWay) {
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  come_back(1);
  pass(std::chrono::milliseconds(250));
  repair_all();
  EXPECT_TRUE(everything_held());
  EXPECT_EQ(status().num_missing, 0);
}

TEST_F(BalancerRepairTest, WorkersThatHoldOddThingsAreCompleted) {
  cluster_.workers_[1].experts_l = {{0, 1}};  // this router came when they held that
  balancer();
  EXPECT_FALSE(cluster_.pending_.empty());
  repair_all();
  EXPECT_TRUE(everything_held());
}

TEST_F(BalancerRepairTest, WhoRefusesIsNotAskedAgainAtOnce) {
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  const int32_t refuses = cluster_.pending_.front().request.worker;
  cluster_.fail_one({Code::resource_exhausted, "no memory"});
  while (!cluster_.pending_.empty()) cluster_.end_one();
  pass(std::chrono::milliseconds(250));
  ASSERT_FALSE(cluster_.pending_.empty());
  EXPECT_NE(cluster_.pending_.front().request.worker, refuses);
  repair_all();
  EXPECT_TRUE(everything_held());
}

TEST_F(BalancerRepairTest, FullWorkersGiveUpReplicas) {
  for (WorkerInfo& worker : model_.workers) worker.memory_bytes = 3 * kExpertBytes;
  cluster_.workers_[0].experts_l = {{0, 1, 4}};
  cluster_.workers_[2].experts_l = {{0, 4, 5}};
  cluster_.workers_[3].experts_l = {{1, 6, 7}};
  balancer();
  lose(1);
  for (int i = 0; i < 10 && !everything_held(); ++i) {
    pass(std::chrono::milliseconds(250));
    repair_all();
  }
  EXPECT_TRUE(everything_held());
}

TEST_F(BalancerRepairTest, WithoutRoomItRaisesAnAlarmUntilTheWorkerIsBack) {
  for (WorkerInfo& worker : model_.workers) worker.memory_bytes = 2 * kExpertBytes;
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  EXPECT_TRUE(cluster_.pending_.empty());
  EXPECT_EQ(alarms(), "experts_missing");
  come_back(1);
  pass(std::chrono::milliseconds(250));
  EXPECT_EQ(alarms(), "");
}

TEST_F(BalancerRepairTest, CanBeForbidden) {
  options_.repair = false;
  balancer();
  lose(1);
  pass(std::chrono::milliseconds(250));
  EXPECT_TRUE(cluster_.pending_.empty());
  EXPECT_EQ(alarms(), "experts_missing");
}

}  // namespace
}  // namespace guildhall
