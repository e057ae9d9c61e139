// dispatcher_rounds_test.cc: two micro-batches under way at once: each gets its own answers, in any order,
// and what goes wrong for one is the end of the step for both.
#include "tests/unit/router/dispatcher_fixture.h"

namespace guildhall {
namespace {

using ::testing::IsEmpty;
using ::testing::StartsWith;

class DispatcherRounds : public DispatcherTest {
 protected:
  // The tokens chosen are split before `first`: micro-batch 0 has those before it, 1 the others.
  Result<void> dispatch_part(int micro_batch) {
    const auto [begin, n] = part(micro_batch);
    return dispatcher_->dispatch({.layer = kLayer, .micro_batch = micro_batch}, x().sub_rows(begin, n),
                                 experts().sub_rows(begin, n), weights().sub_rows(begin, n));
  }
  Result<void> combine_part(int micro_batch) {
    const auto [begin, n] = part(micro_batch);
    y_th_.resize(x_th_.size(), 1.0f);
    return dispatcher_->combine(micro_batch,
                                View2<float>(y_th_.data(), num_tokens_, setup_.hidden).sub_rows(begin, n));
  }
  std::pair<int64_t, int64_t> part(int micro_batch) const {
    return micro_batch == 0 ? std::pair{int64_t{0}, first_} : std::pair{first_, num_tokens_ - first_};
  }
  void expect_sums() {
    EXPECT_EQ(y_th_, expected());
    y_th_.clear();
  }
  // A worker keeps its answers for release().
  void hold_answers(int w) {
    worker(w).serve = [this, w](const DispatchView& d) {
      held_.push_back([this, w, bytes = worker(w).combine_frame(d, ScriptedWorker::fields_of(d.header))] {
        worker(w).send(bytes);
      });
    };
  }

  int64_t first_ = 0;
  std::vector<std::function<void()>> held_;
};

TEST_F(DispatcherRounds, AnswersAreMatchedToTheirMicroBatchInAnyOrder) {
  make({.num_workers = 3, .num_experts = 9, .top_k = 4, .hidden = 5, .max_tokens = 16});
  for (first_ = 1; first_ < 16; ++first_) {
    choose_randomly(16, static_cast<uint64_t>(first_));
    held_.clear();
    for (int w = 0; w < 3; ++w) hold_answers(w);
    ASSERT_TRUE(dispatch_part(0));
    ASSERT_TRUE(dispatch_part(1));
    while (held_.size() < 6) pump();
    for (auto answer = held_.rbegin(); answer != held_.rend(); ++answer) (*answer)();
    ASSERT_TRUE(combine_part(first_ % 2 == 0 ? 0 : 1));
    ASSERT_TRUE(combine_part(first_ % 2 == 0 ? 1 : 0));
    expect_sums();
  }
  EXPECT_EQ(dispatcher_->counters().stale_frames, 0);
}

TEST_F(DispatcherRounds, FramesNameTheirMicroBatchAndEachRoundAStepOfItsOwn) {
  make({});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  ASSERT_TRUE(combine_part(0));
  ASSERT_TRUE(combine_part(1));
  const FrameHeader first = worker(0).received(0).header, second = worker(0).received(1).header;
  EXPECT_EQ(first.micro_batch, 0);
  EXPECT_EQ(second.micro_batch, 1);
  EXPECT_GT(second.step_id, first.step_id);
}

// As a pipeline over layers does: a micro-batch goes on while the other's answers are still out.
TEST_F(DispatcherRounds, OneMayGoOnWhileTheOtherIsAwaited) {
  make({.num_workers = 1});
  choose({{0, 1}, {2, 3}, {4, 5}});
  first_ = 2;
  hold_answers(0);
  ASSERT_TRUE(dispatch_part(0));
  while (held_.empty()) pump();
  worker(0).serve = [this](const DispatchView& d) { worker(0).answer(d); };
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(dispatch_part(1));
    ASSERT_TRUE(combine_part(1));
    if (i < 2) y_th_.clear();
  }
  held_[0]();
  ASSERT_TRUE(combine_part(0));
  expect_sums();
}

TEST_F(DispatcherRounds, AnAnswerWithTheOthersStepIsStale) {
  make({.num_workers = 1});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  worker(0).serve = [this](const DispatchView& d) {
    FrameFields fields = ScriptedWorker::fields_of(d.header);
    fields.micro_batch = static_cast<uint16_t>(1 - fields.micro_batch);
    worker(0).answer(d, fields);
    worker(0).answer(d);
  };
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  ASSERT_TRUE(combine_part(0));
  ASSERT_TRUE(combine_part(1));
  expect_sums();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 2);
}

TEST_F(DispatcherRounds, ARefusalOfOneEndsTheStepForBoth) {
  make({});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  worker(0).serve = [](const DispatchView&) {};
  worker(1).serve = [this](const DispatchView& d) {
    if (d.header.micro_batch == 1) worker(1).fail(d, {Code::internal, "no"});
  };
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  const Result<void> done = combine_part(0);
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().message, "worker=w1: no");
  EXPECT_TRUE(all_attached());
  for (int w = 0; w < 2; ++w) worker(w).serve = [this, w](const DispatchView& d) { worker(w).answer(d); };
  expect_a_good_step();  // micro-batch 1 was abandoned, too
}

TEST_F(DispatcherRounds, LateAnswersToBothMicroBatchesOfAFailedStepAreStale) {
  make({});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  hold_answers(0);
  worker(1).serve = [this](const DispatchView& d) { worker(1).fail(d, {Code::internal, "no"}); };
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  while (held_.size() < 2) pump();
  ASSERT_TRUE(combine_part(1).has_error());
  for (const auto& answer : held_) answer();
  for (int w = 0; w < 2; ++w) worker(w).serve = [this, w](const DispatchView& d) { worker(w).answer(d); };
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  ASSERT_TRUE(combine_part(0));
  ASSERT_TRUE(combine_part(1));
  expect_sums();
  dispatcher_->poll();
  // w0's two, and of w1's two refusals the one that came when the step was over.
  EXPECT_GE(dispatcher_->counters().stale_frames, 2);
}

TEST_F(DispatcherRounds, AWorkerLostBetweenTheDispatchesEndsTheStepForBoth) {
  make({});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  ASSERT_TRUE(dispatch_part(0));
  fabric_.kill("w1");
  dispatcher_->poll();
  const Result<void> sent = dispatch_part(1);
  ASSERT_TRUE(sent.has_error());
  EXPECT_EQ(sent.error().code, Code::peer_lost);
  EXPECT_THAT(sent.error().message, StartsWith("worker=w1: "));
  EXPECT_EQ(dispatcher_->take_lost().size(), 1u);
  workers_[1] = std::make_unique<ScriptedWorker>(fabric_, "w1", router_end_->local_address());
  attach(1);
  expect_a_good_step();
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
}

TEST_F(DispatcherRounds, TheDeadlineNamesThoseThatOweTheRoundAwaited) {
  make({.deadline = kShortDeadline});
  choose({{0, 1}, {2, 3}});
  first_ = 1;
  worker(0).serve = [this](const DispatchView& d) {
    if (d.header.micro_batch == 0) worker(0).answer(d);
  };
  worker(1).serve = [](const DispatchView&) {};
  ASSERT_TRUE(dispatch_part(0));
  ASSERT_TRUE(dispatch_part(1));
  const Result<void> done = combine_part(0);
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().code, Code::deadline_exceeded);
  const auto lost = dispatcher_->take_lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].worker, 1);
}

}  // namespace
}  // namespace guildhall
