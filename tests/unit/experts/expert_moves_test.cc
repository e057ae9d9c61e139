// expert_moves_test.cc: experts come and go by control messages: what is announced, to whom, and when memory
// is freed.
#include "experts/expert_moves.h"

#include "tests/unit/experts/moving_worker.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using State = control::MoveStatus;

int64_t bytes_of(int64_t num_experts) { return num_experts * expert_bytes(tiny_model()); }

class ExpertMovesTest : public ::testing::Test {
 protected:
  // A router that has placed, or found, `experts`.
  std::unique_ptr<MovesRouter> join(const std::string& name, const std::vector<uint32_t>& experts,
                                    MovingWorker* worker = nullptr) {
    auto router =
        std::make_unique<MovesRouter>(fabric_, worker ? *worker : worker_, name, ++last_generation_);
    router->place(experts);
    held_ = router->next_held();
    return router;
  }
  void await_bytes(int64_t bytes) {
    while (worker_.bytes_in_use() != bytes) std::this_thread::yield();
  }

  LoopbackFabric fabric_;
  MovingWorker worker_{fabric_, "w0"};
  uint64_t last_generation_ = 0;
  std::vector<uint32_t> held_;  // as the last one that joined heard
};

// ---- additions

TEST_F(ExpertMovesTest, WhatIsAddedIsAnnouncedWhenAllOfItIsThere) {
  const auto r0 = join("r0", {0, 4}), r1 = join("r1", {});
  EXPECT_THAT(held_, ElementsAre(0, 4));
  r0->add(7, {1, 2});
  const control::MoveStatus done = r0->outcome(7);
  EXPECT_EQ(done.state(), State::DONE) << done.error();
  EXPECT_EQ(done.bytes_done(), bytes_of(4));
  for (MovesRouter* router : {r0.get(), r1.get()}) {
    EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2, 4));
    EXPECT_EQ(router->last_version, 2u);
  }
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(8));
  EXPECT_EQ(worker_.query().load().num_experts(), 8);
  EXPECT_EQ(worker_.query().load().resident_bytes(), bytes_of(8));
}

TEST_F(ExpertMovesTest, WhatIsHeldAlreadyCountsAsAdded) {
  const auto router = join("r0", {0, 4});
  router->add(1, {0, 4});
  const control::MoveStatus done = router->outcome(1);
  EXPECT_EQ(done.state(), State::DONE);
  EXPECT_EQ(done.bytes_done(), 0);
  router->add(2, {0, 1});
  EXPECT_EQ(router->outcome(2).bytes_done(), bytes_of(2));
}

TEST_F(ExpertMovesTest, AdditionsThatOverlapBringAnExpertOnce) {
  const auto router = join("r0", {0});
  router->add(1, {1, 2});
  router->add(2, {2, 3});
  router->add(1, {1, 2});  // said twice
  EXPECT_EQ(router->outcome(1).bytes_done(), bytes_of(4));
  EXPECT_EQ(router->outcome(2).bytes_done(), bytes_of(2));
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2));
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(8));
}

TEST_F(ExpertMovesTest, AnAdditionThatDoesNotFitSaysTheArithmeticAndChangesNothing) {
  MovingWorker small(fabric_, "w1", [](ControlServiceOptions& o) { o.memory_limit = bytes_of(7); });
  const auto router = join("r0", {0, 4}, &small);
  router->add(1, {1, 2});
  const control::MoveStatus failed = router->outcome(1);
  EXPECT_EQ(failed.state(), State::FAILED);
  EXPECT_THAT(failed.error(), AllOf(HasSubstr("worker=w1: 4 more experts of "), HasSubstr(" of the 4 here"),
                                    HasSubstr("experts.workers.memory")));
  EXPECT_EQ(small.bytes_in_use(), bytes_of(4));
  router->add(2, {1});
  EXPECT_EQ(router->outcome(2).state(), State::DONE);
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 4));
}

TEST_F(ExpertMovesTest, AdditionsThatWaitHaveTheirRoomPromised) {
  MovingWorker small(fabric_, "w1", [](ControlServiceOptions& o) { o.memory_limit = bytes_of(7); });
  const auto router = join("r0", {0}, &small);
  router->add(1, {1}, "", /*bytes_per_s=*/1);  // for ever
  router->add(2, {2});
  router->add(3, {3});
  const control::MoveStatus failed = router->outcome(3);
  EXPECT_EQ(failed.state(), State::FAILED);
  EXPECT_THAT(failed.error(), HasSubstr("of the 4 on their way"));
}

TEST_F(ExpertMovesTest, MovesThatCannotBeFailAndTheLinkGoesOn) {
  const auto router = join("r0", {0});
  control::Envelope dense;
  dense.mutable_add_experts()->set_move_id(1);
  dense.mutable_add_experts()->add_layers()->set_layer(1);
  router->send(dense);
  EXPECT_THAT(router->outcome(1).error(), HasSubstr("move: layer 1 has no experts"));
  router->add(2, {9});
  EXPECT_THAT(router->outcome(2).error(), HasSubstr("expert 9 is out of order or range"));
  router->drop(3, {4, 2});
  EXPECT_THAT(router->outcome(3).error(), HasSubstr("expert 2 is out of order or range"));
  router->add(4, {1});
  EXPECT_EQ(router->outcome(4).state(), State::DONE);
}

TEST_F(ExpertMovesTest, MovesBeforeAnythingIsLoadedFail) {
  MovesRouter router(fabric_, worker_, "r0", 1);
  router.add(1, {0});
  EXPECT_THAT(router.outcome(1).error(), HasSubstr("nothing is loaded here yet"));
  router.drop(2, {0});
  EXPECT_THAT(router.outcome(2).error(), HasSubstr("nothing is loaded here yet"));
}

TEST_F(ExpertMovesTest, MoreMovesThanMayWaitAreRefused) {
  const auto router = join("r0", {0});
  for (uint64_t id = 1; id <= kMaxMoves + 1; ++id) router->add(id, {1}, "", /*bytes_per_s=*/1);
  const control::MoveStatus failed = router->outcome(kMaxMoves + 1);
  EXPECT_THAT(failed.error(), HasSubstr("64 moves wait here already"));
}

TEST_F(ExpertMovesTest, ACheckpointThatFailsLeavesWhatWasHeld) {
  const std::filesystem::path copy = std::filesystem::path(::testing::TempDir()) / "expert_moves_gone";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(tiny_checkpoint(), copy, std::filesystem::copy_options::recursive);
  MovingWorker worker(fabric_, "w1", [&](ControlServiceOptions& o) { o.model_path = copy; });
  const auto router = join("r0", {0, 4}, &worker);
  std::filesystem::remove_all(copy);
  router->add(1, {1});
  const control::MoveStatus failed = router->outcome(1);
  EXPECT_EQ(failed.state(), State::FAILED);
  EXPECT_THAT(failed.error(), HasSubstr(copy.string()));
  EXPECT_EQ(worker.bytes_in_use(), bytes_of(4));
  EXPECT_EQ(worker.query().load().num_experts(), 4);
}

// ---- drops

TEST_F(ExpertMovesTest, WhatIsDroppedIsFreedWhenEveryRouterHasSeenIt) {
  const auto r0 = join("r0", {0, 4, 5}), r1 = join("r1", {});
  r0->drop(1, {4});
  EXPECT_THAT(r0->next_held(), ElementsAre(0, 5));
  EXPECT_THAT(r1->next_held(), ElementsAre(0, 5));
  r0->see(r0->last_version);
  r1->see(r1->last_version - 1);
  r1->see(r1->last_version + 7);  // counts as the last one that there is
  const control::MoveStatus done = r0->outcome(1);
  EXPECT_EQ(done.state(), State::DONE);
  EXPECT_EQ(done.bytes_done(), bytes_of(2));
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(4));
}

TEST_F(ExpertMovesTest, WhatIsDroppedIsKeptUntilTheLastHasSeenIt) {
  const auto r0 = join("r0", {0, 4}), r1 = join("r1", {});
  r0->drop(1, {4});
  ASSERT_THAT(r0->next_held(), ElementsAre(0));
  r0->see(r0->last_version);
  r0->drop(2, {9});  // its answer comes behind all that was done about the first
  r0->outcome(2);
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(4));
  EXPECT_EQ(worker_.query().load().num_experts(), 4);
  ASSERT_THAT(r1->next_held(), ElementsAre(0));
  r1->see(r1->last_version);
  EXPECT_EQ(r0->outcome(1).state(), State::DONE);
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(2));
}

TEST_F(ExpertMovesTest, ARouterWhoseLinkEndsHoldsUpNoDrop) {
  const auto r0 = join("r0", {0, 4}), r1 = join("r1", {});
  r0->drop(1, {4});
  ASSERT_THAT(r0->next_held(), ElementsAre(0));
  r0->see(r0->last_version);
  r1->hang_up();
  EXPECT_EQ(r0->outcome(1).state(), State::DONE);
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(2));
}

TEST_F(ExpertMovesTest, ARouterThatComesDuringADropWasNeverToldOfItAndHoldsItNotUp) {
  const auto r0 = join("r0", {0, 4});
  r0->drop(1, {4});
  ASSERT_THAT(r0->next_held(), ElementsAre(0));
  const auto r1 = join("r1", {0, 4});
  EXPECT_THAT(held_, ElementsAre(0));
  r0->see(r0->last_version);
  EXPECT_EQ(r0->outcome(1).state(), State::DONE);
}

TEST_F(ExpertMovesTest, WhatIsNotHeldCountsAsDropped) {
  const auto router = join("r0", {0});
  router->see(1);
  router->drop(1, {3});
  const control::MoveStatus done = router->outcome(1);
  EXPECT_EQ(done.state(), State::DONE);
  EXPECT_EQ(done.bytes_done(), 0);
}

TEST_F(ExpertMovesTest, EverythingMayBeDroppedAndComeBack) {
  const auto router = join("r0", {0, 4});
  router->drop(1, {0, 4});
  EXPECT_THAT(router->next_held(), IsEmpty());
  router->see(router->last_version);
  EXPECT_EQ(router->outcome(1).bytes_done(), bytes_of(4));
  EXPECT_EQ(worker_.bytes_in_use(), 0);
  router->add(2, {4});
  EXPECT_EQ(router->outcome(2).state(), State::DONE);
  EXPECT_THAT(router->next_held(), ElementsAre(4));
}

TEST_F(ExpertMovesTest, AddingTakesBackADropThatIsNotCarriedOut) {
  const auto router = join("r0", {0, 4});
  router->drop(1, {4});
  ASSERT_THAT(router->next_held(), ElementsAre(0));
  router->add(2, {4});
  EXPECT_THAT(router->outcome(1).error(), HasSubstr("added again"));
  const control::MoveStatus done = router->outcome(2);
  EXPECT_EQ(done.state(), State::DONE);
  EXPECT_EQ(done.bytes_done(), 0);
  EXPECT_THAT(router->next_held(), ElementsAre(0, 4));
  router->see(router->last_version);
  router->drop(3, {9});  // its answer comes behind all that the last one did
  router->outcome(3);
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(4));
}

TEST_F(ExpertMovesTest, ADropThatIsTakenBackInPartFreesTheRest) {
  const auto router = join("r0", {0, 4, 5});
  router->drop(1, {4, 5});
  ASSERT_THAT(router->next_held(), ElementsAre(0));
  router->add(2, {5});
  ASSERT_THAT(router->next_held(), ElementsAre(0, 5));
  router->see(router->last_version);
  const control::MoveStatus done = router->outcome(1);
  EXPECT_EQ(done.state(), State::DONE);
  EXPECT_EQ(done.bytes_done(), bytes_of(2));
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(4));
}

TEST_F(ExpertMovesTest, DropsThatOverlapFreeAnExpertOnce) {
  const auto router = join("r0", {0, 4, 5});
  router->drop(1, {4});
  ASSERT_THAT(router->next_held(), ElementsAre(0, 5));
  router->drop(2, {4, 5});
  ASSERT_THAT(router->next_held(), ElementsAre(0));
  router->see(router->last_version);
  EXPECT_EQ(router->outcome(1).bytes_done(), bytes_of(2));
  EXPECT_EQ(router->outcome(2).bytes_done(), bytes_of(2));
  EXPECT_EQ(worker_.bytes_in_use(), bytes_of(2));
}

TEST_F(ExpertMovesTest, WhatIsBeingAddedCannotBeDropped) {
  const auto router = join("r0", {0});
  router->add(1, {1}, "", /*bytes_per_s=*/1);  // for ever
  router->drop(2, {0, 1});
  const control::MoveStatus failed = router->outcome(2);
  EXPECT_EQ(failed.state(), State::FAILED);
  EXPECT_THAT(failed.error(), HasSubstr("being added"));
}

// ---- offloaded experts

TEST_F(ExpertMovesTest, OffloadedExpertsComeAndGoWithoutTheirBytes) {
  MovingWorker small(fabric_, "w1", [](ControlServiceOptions& o) {
    o.memory_limit = bytes_of(3);
    o.offload = OffloadMode::disk;
  });
  const auto router = join("r0", {0, 1, 2, 3}, &small);  // of both layers: 8 experts
  EXPECT_THAT(held_, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(small.bytes_in_use(), 0);
  router->add(1, {4, 5});
  const control::MoveStatus added = router->outcome(1);
  EXPECT_EQ(added.state(), State::DONE);
  EXPECT_EQ(added.bytes_done(), 0);
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(small.bytes_in_use(), 0);

  const PeerId peer = router->end->connect("w1", small.exchange_address()).value();
  const DispatchFrame frame({.generation = last_generation_, .step_id = 1, .layer = 2}, {{0, 4, 5, 3}, {1}});
  const auto region = router->end->acquire(peer, frame.bytes().size()).value();
  std::ranges::copy(frame.bytes(), region.begin());
  const Exchange::Outgoing sent{peer, frame.bytes().size()};
  router->end->post({&sent, 1});
  const control::WorkerLoads loads = router->next_loads();
  EXPECT_EQ(loads.activations(), 5u);
  ASSERT_TRUE(loads.has_offload());
  EXPECT_EQ(loads.offload().hits(), 0u);
  EXPECT_EQ(loads.offload().waits(), 5u);
  EXPECT_EQ(loads.offload().evictions(), 2u);
  EXPECT_EQ(loads.offload().resident_experts(), 3u);
  EXPECT_EQ(loads.offload().resident_bytes(), static_cast<uint64_t>(bytes_of(3)));
  const int64_t beside = small.bytes_in_use() - bytes_of(3);  // what a run works in

  router->drop(2, {0, 1, 3, 4, 5});
  ASSERT_THAT(router->next_held(), ElementsAre(2));
  router->see(router->last_version);
  EXPECT_EQ(router->outcome(2).state(), State::DONE);
  EXPECT_EQ(small.bytes_in_use(), beside);
}

// ---- loads

TEST_F(ExpertMovesTest, ARouterHearsTheWorkersLoads) {
  const auto router = join("r0", {0, 4});
  const PeerId peer = router->end->connect("w0", worker_.exchange_address()).value();
  const DispatchFrame frame({.generation = last_generation_, .step_id = 1, .layer = 2}, {{0, 4}, {4}});
  const auto region = router->end->acquire(peer, frame.bytes().size()).value();
  std::ranges::copy(frame.bytes(), region.begin());
  const Exchange::Outgoing sent{peer, frame.bytes().size()};
  router->end->post({&sent, 1});
  const control::WorkerLoads loads = router->next_loads();
  EXPECT_EQ(loads.runs(), 1u);
  EXPECT_EQ(loads.pairs(), 3u);
  EXPECT_EQ(loads.activations(), 2u);
  EXPECT_EQ(loads.weight_bytes(), static_cast<uint64_t>(bytes_of(2)));
  EXPECT_GT(loads.compute_ns(), 0u);
}

}  // namespace
}  // namespace guildhall
