// move_phases_test.cc: in each phase of a move, the router that asked dies, or the worker does. What a
// survivor was told is what is held, and memory is what that takes, to the byte.
//
// An addition is asked for, loading, loaded but not announced, announced; a drop is asked for, retiring, seen
// (nobody asks any more), freed.
#include "tests/unit/experts/moving_worker.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;

int64_t bytes_of(int64_t num_experts) { return num_experts * expert_bytes(tiny_model()); }

enum class Phase { asked, loading, loaded, announced, drop_asked, retiring, seen, freed };
void PrintTo(Phase phase, std::ostream* out) {
  *out << std::array{"asked", "loading", "loaded", "announced", "drop_asked", "retiring", "seen", "freed"}
          [static_cast<size_t>(phase)];
}

class MovePhases : public ::testing::TestWithParam<Phase> {
 protected:
  MovePhases() {
    asker_ = std::make_unique<MovesRouter>(fabric_, *worker_, "r0", 1);
    asker_->place({0, 4});
    EXPECT_THAT(asker_->next_held(), ElementsAre(0, 4));
    witness_ = std::make_unique<MovesRouter>(fabric_, *worker_, "r1", 2);
    witness_->place({});
    EXPECT_THAT(witness_->next_held(), ElementsAre(0, 4));
  }
  ~MovePhases() override {
    if (gate_) gate_->set_value();
  }

  // An addition of experts 1 and 2, or a drop of 4, as far as the phase says. A gate holds the serve thread
  // where it must not be ahead of the test.
  void reach(Phase phase) {
    const auto slow = static_cast<uint64_t>(bytes_of(8));  // half a second for the four
    switch (phase) {
      case Phase::asked:
        return asker_->add(1, {1, 2}, "", slow);
      case Phase::loading:
        asker_->add(1, {1, 2}, "", slow);
        return asker_->await_running(1);
      case Phase::loaded:
        gate_ = worker_->hold_up();
        asker_->add(1, {1, 2});
        return await_bytes(bytes_of(8));
      case Phase::announced:
        asker_->add(1, {1, 2});
        EXPECT_THAT(asker_->next_held(), ElementsAre(0, 1, 2, 4));
        return;
      case Phase::drop_asked:
        return asker_->drop(1, {4});
      case Phase::retiring:
        asker_->drop(1, {4});
        EXPECT_THAT(asker_->next_held(), ElementsAre(0));
        return;
      case Phase::seen:
        gate_ = worker_->hold_up();
        asker_->drop(1, {4});
        EXPECT_THAT(asker_->next_held(), ElementsAre(0));
        EXPECT_THAT(witness_->next_held(), ElementsAre(0));
        witness_->see(witness_->last_version), witness_saw_ = true;
        return asker_->see(asker_->last_version);
      case Phase::freed:
        asker_->drop(1, {4});
        EXPECT_THAT(asker_->next_held(), ElementsAre(0));
        EXPECT_THAT(witness_->next_held(), ElementsAre(0));
        witness_->see(witness_->last_version), witness_saw_ = true;
        asker_->see(asker_->last_version);
        EXPECT_EQ(asker_->outcome(1).state(), control::MoveStatus::DONE);
        return;
    }
  }
  void await_bytes(int64_t bytes) {
    while (worker_->bytes_in_use() != bytes) std::this_thread::yield();
  }

  LoopbackFabric fabric_;
  std::unique_ptr<MovingWorker> worker_ = std::make_unique<MovingWorker>(fabric_, "w0");
  std::unique_ptr<MovesRouter> asker_, witness_;
  std::shared_ptr<std::promise<void>> gate_;
  bool witness_saw_ = false;
};

TEST_P(MovePhases, WhenTheAskerDiesTheMoveIsFinishedAndTheOthersKnow) {
  reach(GetParam());
  asker_->hang_up();
  if (gate_) std::exchange(gate_, nullptr)->set_value();
  const bool is_addition = GetParam() <= Phase::announced;
  if (!witness_saw_) {
    if (is_addition)
      EXPECT_THAT(witness_->next_held(), ElementsAre(0, 1, 2, 4));
    else
      EXPECT_THAT(witness_->next_held(), ElementsAre(0));
    witness_->see(witness_->last_version);
  }
  await_bytes(bytes_of(is_addition ? 8 : 2));
  // A third one finds the same, and may move on.
  MovesRouter next(fabric_, *worker_, "r2", 3);
  next.place({8});
  if (is_addition)
    EXPECT_THAT(next.next_held(), ElementsAre(0, 1, 2, 4));
  else
    EXPECT_THAT(next.next_held(), ElementsAre(0));
  next.add(1, {7});
  EXPECT_EQ(next.outcome(1).state(), control::MoveStatus::DONE);
}

TEST_P(MovePhases, WhenTheWorkerDiesItsMemoryIsFreedAndTheNextOneStartsEmpty) {
  reach(GetParam());
  if (gate_) {  // its io thread dies while the serve thread is held up
    std::thread opens([gate = std::exchange(gate_, nullptr)] { gate->set_value(); });
    worker_->die();
    opens.join();
  } else {
    worker_->die();
  }
  EXPECT_EQ(worker_->bytes_in_use(), 0);
  EXPECT_THROW(for (;;) witness_->next_holdings(), std::runtime_error);
  worker_ = std::make_unique<MovingWorker>(fabric_, "w0");
  MovesRouter next(fabric_, *worker_, "r0", 3);
  next.place({0, 1});
  EXPECT_THAT(next.next_held(), ElementsAre(0, 1));
}

INSTANTIATE_TEST_SUITE_P(All, MovePhases,
                         ::testing::Values(Phase::asked, Phase::loading, Phase::loaded, Phase::announced,
                                           Phase::drop_asked, Phase::retiring, Phase::seen, Phase::freed),
                         [](const auto& info) { return ::testing::PrintToString(info.param); });

}  // namespace
}  // namespace guildhall
