// dispatcher_faults_test.cc: packet histories: answers that are duplicate, stale, late, lost, short or
// corrupt, and workers that fail, fall silent or die.
#include "tests/unit/router/dispatcher_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class DispatcherFaults : public DispatcherTest {
 protected:
  // w1's links end, w0's goes on; the loss is told once. Then w1 comes back and all is well.
  void expect_only_w1_lost(const Result<void>& step, Code code, const std::string& what) {
    ASSERT_TRUE(step.has_error());
    EXPECT_EQ(step.error().code, code);
    EXPECT_THAT(step.error().message, AllOf(StartsWith("worker=w1: "), HasSubstr(what)));
    const auto lost = dispatcher_->take_lost();
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_EQ(lost[0].worker, 1);
    EXPECT_EQ(lost[0].why.message, step.error().message);
    dispatcher_->poll();
    EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
    EXPECT_FALSE(all_attached());
    worker(1).serve = [this](const DispatchView& d) { worker(1).answer(d); };
    reattach(1);
    EXPECT_TRUE(all_attached());
    expect_a_good_step();
  }
};

// ---- frames to be ignored

TEST_F(DispatcherFaults, AnswersThatAreNotForThisDispatchAreIgnored) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    for (int wrong = 0; wrong < 3; ++wrong) {
      FrameFields fields = ScriptedWorker::fields_of(d.header);
      if (wrong == 0) fields.generation += 1;
      if (wrong == 1) fields.step_id -= 1;
      if (wrong == 2) fields.layer = 0;
      std::vector<std::byte> frame = worker(1).combine_frame(d, fields);
      std::fill(frame.begin() + sizeof(FrameHeader), frame.end(), std::byte{0x41});
      worker(1).send(frame);
    }
    worker(1).answer(d);
  };
  expect_a_good_step();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 3);
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
}

TEST_F(DispatcherFaults, ADuplicateAnswerIsIgnored) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).answer(d);
    worker(1).answer(d);
  };
  expect_a_good_step();
  expect_a_good_step();
  dispatcher_->poll();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 2);
  EXPECT_TRUE(all_attached());
}

TEST_F(DispatcherFaults, AnAnswerNobodyAskedForIsIgnored) {
  make({});
  choose({{0, 1}});
  worker(0).serve = [this](const DispatchView& d) {
    worker(0).answer(d);
    FrameFields fields = ScriptedWorker::fields_of(d.header);
    fields.micro_batch = 1;  // there is but one
    worker(0).answer(d, fields);
  };
  expect_a_good_step();
  dispatcher_->poll();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 1);
}

// ---- frames that end a link

TEST_F(DispatcherFaults, AnAnswerOfTooFewRowsDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).answer(d, ScriptedWorker::fields_of(d.header), -1);
  };
  expect_only_w1_lost(step(), Code::data_loss, "answered 1 rows of 4 for 2 of 4");
}

TEST_F(DispatcherFaults, AnAnswerOfTooManyRowsDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).answer(d, ScriptedWorker::fields_of(d.header), 1);
  };
  expect_only_w1_lost(step(), Code::data_loss, "answered 3 rows of 4 for 2 of 4");
}

TEST_F(DispatcherFaults, AnAnswerOfAnotherCodecDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    std::vector<std::byte> frame(
        frame_layout({.num_rows = 2, .hidden = 4, .codec = Codec::bf16}).total_bytes);
    begin_combine(answer_fields(d.header), {.num_rows = 2, .hidden = 4, .codec = Codec::bf16}, frame);
    worker(1).send(frame);
  };
  expect_only_w1_lost(step(), Code::data_loss, "answered codec 1 combine 0 where 0 and 0 were asked for");
}

TEST_F(DispatcherFaults, AReducedAnswerToAnExactDispatchDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});  // as many rows as pairs on w1: only the header tells
  worker(1).serve = [this](const DispatchView& d) {
    FrameFields fields = answer_fields(d.header);
    fields.combine = Combine::reduced;
    worker(1).answer(d, fields);
  };
  expect_only_w1_lost(step(), Code::data_loss, "answered codec 0 combine 1 where 0 and 0 were asked for");
}

TEST_F(DispatcherFaults, ATruncatedAnswerDropsThatLinkOnly) {
  for (const size_t cut : {8u, 24u, 80u}) {
    workers_.clear();
    make({});
    choose({{0, 1}, {2, 3}});
    worker(1).serve = [this, cut](const DispatchView& d) {
      std::vector<std::byte> frame = worker(1).combine_frame(d, ScriptedWorker::fields_of(d.header));
      frame.resize(frame.size() - cut);
      worker(1).send(frame);
    };
    expect_only_w1_lost(step(), Code::data_loss, "bad frame");
  }
}

TEST_F(DispatcherFaults, ACorruptHeaderDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    std::vector<std::byte> frame = worker(1).combine_frame(d, ScriptedWorker::fields_of(d.header));
    frame[0] ^= std::byte{1};
    worker(1).send(frame);
  };
  expect_only_w1_lost(step(), Code::data_loss, "bad frame");
}

TEST_F(DispatcherFaults, ACorruptPayloadDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    std::vector<std::byte> frame = worker(1).combine_frame(d, ScriptedWorker::fields_of(d.header));
    seal_frame(frame);
    frame.back() ^= std::byte{1};
    worker(1).send(frame);
  };
  expect_only_w1_lost(step(), Code::data_loss, "bad frame");
}

TEST_F(DispatcherFaults, ADispatchForAnAnswerDropsThatLinkOnly) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView&) { worker(1).send(worker(1).frames.back()); };
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  expect_only_w1_lost(done, done.error().code, "bad frame");
}

TEST_F(DispatcherFaults, ACorruptFrameBetweenStepsIsAlsoALoss) {
  make({});
  choose({{0, 1}});
  ASSERT_TRUE(step());
  worker(1).send(std::vector<std::byte>(64, std::byte{0x5a}));
  dispatcher_->poll();
  const auto lost = dispatcher_->take_lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].worker, 1);
  EXPECT_FALSE(all_attached());
}

// ---- a worker's refusal

TEST_F(DispatcherFaults, AFailureFrameBecomesAnErrorNamingTheWorker) {
  make({});
  choose({{0, 1}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).fail(d, {Code::resource_exhausted, "16 dispatches wait here"});
  };
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().code, Code::resource_exhausted);
  EXPECT_EQ(done.error().message, "worker=w1: 16 dispatches wait here");
  EXPECT_TRUE(all_attached());  // it is there, and talks sense
  worker(1).serve = [this](const DispatchView& d) { worker(1).answer(d); };
  expect_a_good_step();
}

// What it announced is not what it holds: a new link tells.
TEST_F(DispatcherFaults, ARefusalOfAnExpertThatIsNotHeldEndsThatLink) {
  make({});
  choose({{0, 1}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).fail(d, {Code::not_found, "layer 1 expert 1 is not held here"});
  };
  expect_only_w1_lost(step(), Code::not_found, "expert 1 is not held");
}

TEST_F(DispatcherFaults, ARefusalForADeadlineIsNotOurDeadline) {
  make({});
  choose({{0, 1}});
  worker(0).serve = [](const DispatchView&) {};  // still at it when w1's refusal comes
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).fail(d, {Code::deadline_exceeded, "too slow"});
  };
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().message, "worker=w1: too slow");
  EXPECT_TRUE(all_attached());
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
}

TEST_F(DispatcherFaults, AnswersToAStepThatFailedAreStaleInTheNext) {
  make({});
  choose({{0, 1}, {2, 3}});
  std::vector<std::byte> late;
  worker(0).serve = [&](const DispatchView& d) {
    late = worker(0).combine_frame(d, ScriptedWorker::fields_of(d.header));
    std::fill(late.begin() + sizeof(FrameHeader), late.end(), std::byte{0x41});
  };
  worker(1).serve = [this](const DispatchView& d) { worker(1).fail(d, {Code::internal, "no"}); };
  ASSERT_TRUE(step().has_error());
  worker(0).serve = [&](const DispatchView& d) {
    worker(0).send(late);
    worker(0).answer(d);
  };
  worker(1).serve = [this](const DispatchView& d) { worker(1).answer(d); };
  expect_a_good_step();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 1);
}

// ---- silence

TEST_F(DispatcherFaults, ALostAnswerEndsAtTheDeadlineNamingWorkerAndLayer) {
  make({.deadline = kShortDeadline});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [](const DispatchView&) {};
  expect_only_w1_lost(step(), Code::deadline_exceeded, "no answer for layer 1 within 400 ms");
}

TEST_F(DispatcherFaults, EachLateWorkerIsNamed) {
  make({.num_workers = 3, .deadline = kShortDeadline});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = worker(2).serve = [](const DispatchView&) {};
  ASSERT_TRUE(step().has_error());
  const auto lost = dispatcher_->take_lost();
  ASSERT_EQ(lost.size(), 2u);
  EXPECT_THAT(lost[0].why.message, StartsWith("worker=w1: no answer"));
  EXPECT_THAT(lost[1].why.message, StartsWith("worker=w2: no answer"));
}

// A worker that was late, with its late frame on the link that was given up before or after it is attached
// again, or on its new link.
struct Lateness {
  int num_steps_before;  // 0: the frame is the first that its link ever carried
  enum { before_reattach, after_reattach, on_new_link } comes;
};
class DispatcherLate : public DispatcherTest, public ::testing::WithParamInterface<Lateness> {};

TEST_P(DispatcherLate, FramesHaveNoEffectOnTheNextDispatches) {
  make({.deadline = kShortDeadline});
  choose({{0, 1}, {2, 3}});
  for (int i = 0; i < GetParam().num_steps_before; ++i) expect_a_good_step();
  for (int round = 0; round < 3; ++round) {
    std::vector<std::byte> late;
    worker(1).serve = [&](const DispatchView& d) {
      late = worker(1).combine_frame(d, ScriptedWorker::fields_of(d.header));
      std::fill(late.begin() + sizeof(FrameHeader), late.end(), std::byte{0x41});
    };
    ASSERT_TRUE(step().has_error());
    EXPECT_EQ(dispatcher_->take_lost().size(), 1u);
    if (GetParam().comes != Lateness::on_new_link) worker(1).send(late);
    if (GetParam().comes == Lateness::before_reattach) dispatcher_->poll();
    reattach(1);
    worker(1).serve = [&](const DispatchView& d) {
      if (GetParam().comes == Lateness::on_new_link) worker(1).send(late);
      worker(1).answer(d);
    };
    expect_a_good_step();
    worker(1).serve = [&](const DispatchView& d) { worker(1).answer(d); };
    expect_a_good_step();
    EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Orders, DispatcherLate,
    ::testing::Values(Lateness{0, Lateness::before_reattach}, Lateness{2, Lateness::before_reattach},
                      Lateness{0, Lateness::after_reattach}, Lateness{2, Lateness::after_reattach},
                      Lateness{0, Lateness::on_new_link}, Lateness{2, Lateness::on_new_link}));

// ---- death

TEST_F(DispatcherFaults, AWorkerLostWhileItIsAwaitedEndsTheStep) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView&) { fabric_.kill("w1"); };
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().code, Code::peer_lost);
  EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
  const auto lost = dispatcher_->take_lost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].worker, 1);

  workers_[1] = std::make_unique<ScriptedWorker>(fabric_, "w1", router_end_->local_address());
  attach(1);
  expect_a_good_step();
}

TEST_F(DispatcherFaults, AWorkerDetachedWhileItIsAwaitedEndsTheStep) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [](const DispatchView&) {};
  while_waiting_ = [this] { dispatcher_->detach(1); };
  const Result<void> done = step();
  while_waiting_ = nullptr;
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().code, Code::peer_lost);
  EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());  // who detached it knows
  worker(1).serve = [this](const DispatchView& d) { worker(1).answer(d); };
  reattach(1);
  expect_a_good_step();
}

TEST_F(DispatcherFaults, AWorkerThatDiesAfterItsAnswerDoesNotSpoilTheStep) {
  make({});
  choose({{0, 1}, {2, 3}});
  worker(1).serve = [this](const DispatchView& d) {
    worker(1).answer(d);
    fabric_.kill("w1");
  };
  expect_a_good_step();
  dispatcher_->poll();
  EXPECT_EQ(dispatcher_->take_lost().size(), 1u);
}

TEST_F(DispatcherFaults, NobodyIsAskedForAPartOfWhatNeedsALostWorkerToo) {
  make({});
  choose({{0, 1}, {2, 3}});
  ASSERT_TRUE(step());
  fabric_.kill("w1");
  dispatcher_->poll();
  const Result<void> sent = dispatch();
  ASSERT_TRUE(sent.has_error());
  EXPECT_EQ(sent.error().code, Code::peer_lost);
  EXPECT_THAT(sent.error().message, StartsWith("worker=w1: "));
  EXPECT_EQ(dispatcher_->take_lost().size(), 1u);

  workers_[1] = std::make_unique<ScriptedWorker>(fabric_, "w1", router_end_->local_address());
  attach(1);
  expect_a_good_step();
  dispatcher_->poll();
  EXPECT_EQ(worker(0).frames.size(), 2u);
  EXPECT_EQ(dispatcher_->counters().stale_frames, 0);
}

// An exchange may know of a loss before its next poll reports it.
class KnowsBeforeItTells final : public Exchange {
 public:
  explicit KnowsBeforeItTells(Exchange& exchange) : exchange_(exchange) {}
  std::string local_address() const override { return exchange_.local_address(); }
  Result<PeerId> connect(std::string_view name, std::string_view address) override {
    return exchange_.connect(name, address);
  }
  void disconnect(PeerId peer) override { exchange_.disconnect(peer); }
  Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) override {
    if (peer == refused) return Status{Code::peer_lost, "its endpoint failed"};
    return exchange_.acquire(peer, bytes);
  }
  void post(std::span<const Outgoing> frames) override { exchange_.post(frames); }
  size_t poll(ExchangeHandler& handler) override { return exchange_.poll(handler); }
  FrameHold hold() override { return exchange_.hold(); }
  void wait(std::chrono::nanoseconds timeout) override { exchange_.wait(timeout); }
  void wake() override { exchange_.wake(); }
  std::string describe(PeerId peer) const override { return exchange_.describe(peer); }

  PeerId refused = 0;

 private:
  void end_hold(uint32_t) override {}  // holds are the other's
  Exchange& exchange_;
};

TEST_F(DispatcherFaults, ALossThatSendingNoticesFirstIsALostWorker) {
  make({});
  KnowsBeforeItTells exchange(*router_end_);
  make_dispatcher(exchange);
  for (int w = 0; w < 2; ++w)
    dispatcher_->attach(w, name(w), peers_[static_cast<size_t>(w)], generation(w), holdings(w));
  choose({{0, 1}, {2, 3}});
  expect_a_good_step();
  exchange.refused = peers_[1];
  const Result<void> sent = dispatch();
  exchange.refused = 0;
  // What was packed for w0 before does not stand in the way of the next step.
  expect_only_w1_lost(sent, Code::peer_lost, "its endpoint failed");
  EXPECT_EQ(dispatcher_->counters().stale_frames, 1);
}

}  // namespace
}  // namespace guildhall
