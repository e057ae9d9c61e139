#include "router/balance/workers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr SlotRequest kRequest{
    .num_layers = 2, .num_experts = 8, .redundant_experts = 4, .expert_bytes = 100};

TEST(PlanSlots, SharesSlotsInProportionToSpeed) {
  const std::vector<WorkerInfo> workers{{"w0", 0, 1, "a"}, {"w1", 0, 2, "b"}, {"w2", 0, 1, "a"}};
  const BalanceWorkers plan = plan_slots(workers, kRequest).value();
  EXPECT_THAT(plan.slots_w, ElementsAre(3, 6, 3));
  EXPECT_THAT(plan.node_w, ElementsAre(0, 1, 0));
  EXPECT_EQ(plan.num_nodes(), 2);
  EXPECT_EQ(plan.slots(), 12);
}

TEST(PlanSlots, MemoryBoundsAWorker) {
  const std::vector<WorkerInfo> workers{{"w0", 599, 1, "a"}, {"w1", 0, 1, "b"}};
  EXPECT_THAT(plan_slots(workers, kRequest)->slots_w,
              ElementsAre(2, 8));  // never more than there are experts
}

TEST(PlanSlots, RedundancyShrinksToWhatFits) {
  const std::vector<WorkerInfo> workers{{"w0", 1000, 1, "a"}, {"w1", 1000, 1, "b"}};
  EXPECT_THAT(plan_slots(workers, kRequest)->slots_w, ElementsAre(5, 5));
}

TEST(PlanSlots, RefusesWithTheArithmetic) {
  const std::vector<WorkerInfo> workers{{"w0", 1000, 1, "a"}, {"w1", 500, 1, "b"}};
  const Status refused = plan_slots(workers, kRequest).error();
  EXPECT_EQ(refused.code, Code::resource_exhausted);
  EXPECT_THAT(refused.message, HasSubstr("8 experts in 2 layers of 100 B each need 1.6 KiB"));
  EXPECT_THAT(refused.message, HasSubstr("holds 7 experts"));
}

TEST(PlanSlots, WorkersThatAreAwayGetNone) {
  const std::vector<WorkerInfo> workers{
      {"w0", 0, 1, "a"}, {.name = "w1", .is_there = false}, {"w2", 0, 1, "a"}};
  EXPECT_THAT(plan_slots(workers, kRequest)->slots_w, ElementsAre(6, 0, 6));
}

TEST(PlanServingSlots, LeaveEachWorkerRoomForOneExpertMore) {
  const std::vector<WorkerInfo> tight{{"w0", 1200, 1, "a"}, {"w1", 1399, 1, "b"}};
  EXPECT_THAT(plan_slots(tight, kRequest)->slots_w, ElementsAre(6, 6));
  EXPECT_THAT(plan_serving_slots(tight, kRequest)->slots_w, ElementsAre(5, 6));
}

TEST(PlanServingSlots, TakeAllOfItWhereEveryExpertNeedsIt) {
  const std::vector<WorkerInfo> full{{"w0", 800, 1, "a"}, {"w1", 800, 1, "b"}};
  EXPECT_THAT(plan_serving_slots(full, kRequest)->slots_w, ElementsAre(4, 4));
}

}  // namespace
}  // namespace guildhall
