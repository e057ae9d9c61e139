#include "router/replica_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int32_t> workers(std::span<const Replica> replicas) {
  std::vector<int32_t> list;
  for (const Replica& replica : replicas) list.push_back(replica.worker);
  return list;
}

TEST(ReplicaTable, TellsOneWorkerSeveralOrNobodyPerExpert) {
  ReplicaTable table({{false, true, true}, 3});
  const ExpertsOfLayer w0 = {{}, {0, 1}, {2}}, w2 = {{}, {1}, {0, 1}}, also_w2 = {{}, {}, {2}};
  const std::vector<const ExpertsOfLayer*> held_w[] = {{&w0}, {}, {&w2, &also_w2}};
  table.build(held_w);
  EXPECT_THAT(table.layer(1).worker_e, ElementsAre(0, kSeveral, kNobody));
  EXPECT_THAT(table.layer(2).worker_e, ElementsAre(2, 2, kSeveral));
  EXPECT_THAT(workers(table.layer(1).of(0)), ElementsAre(0));
  EXPECT_THAT(workers(table.layer(1).of(1)), ElementsAre(0, 2));
  EXPECT_THAT(workers(table.layer(1).of(2)), IsEmpty());
  EXPECT_THAT(workers(table.layer(2).of(2)), ElementsAre(0, 2));
  EXPECT_EQ(table.num_uncovered(), 1);
  EXPECT_EQ(table.first_uncovered().layer, 1);
  EXPECT_EQ(table.first_uncovered().expert, 2);
}

TEST(ReplicaTable, SaysOfEachLayerWhetherThereIsAnythingToChoose) {
  ReplicaTable table({{true, true}, 2});
  const ExpertsOfLayer w0 = {{0}, {0, 1}}, w1 = {{1}, {1}};
  const std::vector<const ExpertsOfLayer*> held_w[] = {{&w0}, {&w1}};
  table.build(held_w);
  EXPECT_FALSE(table.layer(0).has_several);
  EXPECT_TRUE(table.layer(1).has_several);
  EXPECT_EQ(table.num_uncovered(), 0);
  table.build({});  // nothing of before is left
  EXPECT_FALSE(table.layer(1).has_several);
  EXPECT_EQ(table.num_uncovered(), 4);
  EXPECT_THAT(table.layer(0).worker_e, ElementsAre(kNobody, kNobody));
}

}  // namespace
}  // namespace guildhall
