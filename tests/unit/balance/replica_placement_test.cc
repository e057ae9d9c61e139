#include "router/balance/replica_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string refusal(std::vector<LayerSlots> expert_lws) {
  return ReplicaPlacement::create(1, 3, 2, std::move(expert_lws)).error().message;
}

TEST(ReplicaPlacement, FindsReplicasByAscendingWorker) {
  const auto placement = ReplicaPlacement::create(5, 3, 2, {{}, {{2, kEmptySlot, 0}, {1, 0}}}).value();
  EXPECT_EQ(placement.version(), 5u);
  EXPECT_FALSE(placement.has_experts(0));
  EXPECT_THAT(placement.replicas(1, 0), ElementsAre(Replica{0, 2}, Replica{1, 1}));
  EXPECT_THAT(placement.replicas(1, 1), ElementsAre(Replica{1, 0}));
  EXPECT_THAT(placement.replicas(1, 2), ElementsAre(Replica{0, 0}));
  EXPECT_THAT(experts_per_worker(placement), ElementsAre(2, 2));
}

TEST(ReplicaPlacement, NamesWhatIsWrong) {
  EXPECT_THAT(refusal({{{0, 1}, {1}}}), HasSubstr("layer 0: expert 2 is on no worker"));
  EXPECT_THAT(refusal({{}, {{0, 1, 0}, {2}}}), HasSubstr("layer 1: worker 0 has expert 0 twice"));
  EXPECT_THAT(refusal({{{0, 1, 2}, {3}}}), HasSubstr("worker 1 has expert 3 of 3"));
  EXPECT_THAT(refusal({{{0, 1, 2}, {-2}}}), HasSubstr("worker 1 has expert -2 of 3"));
  EXPECT_THAT(refusal({{{0, 1, 2}}}), HasSubstr("1 workers where there are 2"));
}

TEST(ReplicaPlacement, ConvertsFromAndToOneReplicaEach) {
  const Placement one{.version = 4, .num_workers = 3, .worker_le = {{}, {0, 2, 0, 1}, {2, 2, 1, 0}}};
  const ReplicaPlacement several = ReplicaPlacement::from(one);
  EXPECT_THAT(several.layer(1), ElementsAre(ElementsAre(0, 2), ElementsAre(3), ElementsAre(1)));
  const Placement back = several.first_replicas();
  EXPECT_EQ(back.version, one.version);
  EXPECT_EQ(back.num_workers, one.num_workers);
  EXPECT_EQ(back.worker_le, one.worker_le);
}

TEST(ReplicaPlacement, MovesAreExpertsThatAWorkerHadNot) {
  const auto from = ReplicaPlacement::create(1, 3, 2, {{{0, 1}, {2}}, {{0, 1}, {2}}}).value();
  const auto to = ReplicaPlacement::create(2, 3, 2, {{{1, 0}, {2}}, {{0, 2}, {2, 1}}}).value();
  EXPECT_THAT(moves_per_layer(from, to), ElementsAre(0, 2));
}

}  // namespace
}  // namespace guildhall
