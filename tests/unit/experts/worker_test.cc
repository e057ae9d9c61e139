// worker_test.cc: a worker polled by the test, and routers that are raw loopback ends.
#include "experts/worker.h"

#include <thread>

#include "tests/unit/experts/dispatch_frames.h"
#include "transport/loopback.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class RouterEnd final : public ExchangeHandler {
 public:
  RouterEnd(LoopbackFabric& fabric, std::string name, const std::string& worker_address)
      : name(std::move(name)), exchange(fabric.make_end(this->name)), worker_address_(worker_address) {
    reconnect();
  }
  void reconnect() {
    exchange->disconnect(worker);
    worker = exchange->connect("w0", worker_address_).value();
  }
  void send(std::span<const std::byte> bytes) {
    const auto region = exchange->acquire(worker, bytes.size()).value();
    std::copy(bytes.begin(), bytes.end(), region.begin());
    const Exchange::Outgoing frame{worker, bytes.size()};
    exchange->post({&frame, 1});
  }
  size_t poll() { return exchange->poll(*this); }
  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    answers.emplace_back(bytes.begin(), bytes.end());
  }
  void on_peer_lost(PeerId, const Status&) override {}

  const std::string name;
  const std::unique_ptr<Exchange> exchange;
  PeerId worker = 0;
  std::vector<std::vector<std::byte>> answers;

 private:
  const std::string worker_address_;
};

class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() : end_(fabric_.make_end("w0")), worker_(tiny_model(), *end_, {.num_threads = 2}) {
    worker_.set_store(all_experts());
  }

  std::unique_ptr<RouterEnd> make_router(const std::string& name, uint64_t generation) {
    auto router = std::make_unique<RouterEnd>(fabric_, name, end_->local_address());
    attach(*router, generation);
    return router;
  }
  void attach(RouterEnd& router, uint64_t generation) {
    bool attached = false;
    worker_.attach_router(router.name, router.exchange->local_address(), generation, [&](Result<void> done) {
      EXPECT_FALSE(done.has_error());
      attached = true;
    });
    worker_.poll();
    EXPECT_TRUE(attached);
  }
  // Lets the worker serve and the router hear.
  void exchange_frames(RouterEnd& router) {
    while (worker_.poll()) {
    }
    router.poll();
  }
  static FrameFields fields(uint64_t generation) {
    return {.generation = generation, .step_id = 77, .placement_version = 3, .layer = 2};
  }
  void expect_answer(const RouterEnd& router, size_t i, const DispatchFrame& asked) {
    ASSERT_GT(router.answers.size(), i);
    const Result<CombineView> answer = decode_combine(router.answers[i]);
    ASSERT_FALSE(answer.has_error()) << answer.error().message;
    const FrameHeader &got = answer->header, sent = asked.view().header;
    EXPECT_EQ(got.generation, sent.generation);
    EXPECT_EQ(got.step_id, sent.step_id);
    EXPECT_EQ(got.placement_version, sent.placement_version);
    EXPECT_EQ(got.layer, sent.layer);
    EXPECT_EQ(got.codec, sent.answer_codec);
    EXPECT_EQ(got.combine, sent.combine);
    EXPECT_EQ(got.num_rows, answer_shape(sent).num_rows);
    expect_rows(answer->rows, codec_of(got), expected_rows(asked.view(), *all_experts()));
  }
  void expect_served(RouterEnd& router, uint64_t generation) {
    const DispatchFrame frame(fields(generation), {{1, 2}, {2}});
    router.send(frame.bytes());
    exchange_frames(router);
    expect_answer(router, router.answers.size() - 1, frame);
  }
  static void expect_failure(const RouterEnd& router, Code code, const std::string& what) {
    ASSERT_THAT(router.answers, SizeIs(1));
    const Result<FailureView> failure = decode_failure(router.answers[0]);
    ASSERT_FALSE(failure.has_error()) << failure.error().message;
    EXPECT_EQ(failure->header.step_id, 77u);
    EXPECT_EQ(failure->why.code, code);
    EXPECT_THAT(failure->why.message, HasSubstr(what));
  }

  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> end_;
  Worker worker_;
};

TEST_F(WorkerTest, AnswersEachPairWithItsExpertsRow) {
  const auto router = make_router("r0", 5);
  for (const Codec codec : {Codec::f32, Codec::bf16}) {
    FrameFields asked = fields(5);
    asked.answer_codec = codec;
    asked.combine = codec == Codec::f32 ? Combine::exact : Combine::reduced;
    const DispatchFrame frame(asked, {{8, 0, 3}, {3}, {0, 8}}, codec);
    router->send(frame.bytes());
    exchange_frames(*router);
    expect_answer(*router, router->answers.size() - 1, frame);
  }
  EXPECT_EQ(worker_.counters().frames_served, 2u);
  EXPECT_EQ(worker_.counters().rows_served, 12u);
  EXPECT_EQ(worker_.counters().frames_refused, 0u);
}

TEST_F(WorkerTest, AnEmptyDispatchHasAnEmptyAnswer) {
  const auto router = make_router("r0", 5);
  const DispatchFrame frame(fields(5), {});
  router->send(frame.bytes());
  exchange_frames(*router);
  expect_answer(*router, 0, frame);
}

TEST_F(WorkerTest, AFrameSentTwiceIsAnsweredTwice) {  // telling duplicates apart is the router's business
  const auto router = make_router("r0", 5);
  const DispatchFrame frame(fields(5), {{1}});
  router->send(frame.bytes());
  router->send(frame.bytes());
  exchange_frames(*router);
  expect_answer(*router, 0, frame);
  expect_answer(*router, 1, frame);
}

TEST_F(WorkerTest, ServesTwoRoutersEachByItsGeneration) {
  const auto r0 = make_router("r0", 5), r1 = make_router("r1", 6);
  const DispatchFrame a(fields(5), {{1, 2}}), b(fields(6), {{4}, {3, 1}});
  r0->send(a.bytes());
  r1->send(b.bytes());
  exchange_frames(*r0);
  r1->poll();
  expect_answer(*r0, 0, a);
  expect_answer(*r1, 0, b);
  EXPECT_THAT(r0->answers, SizeIs(1));
  EXPECT_THAT(r1->answers, SizeIs(1));
}

// ---- refusals

TEST_F(WorkerTest, AnUnknownExpertIsAFailureFrame) {
  worker_.set_store(load_experts({1}));
  const auto router = make_router("r0", 5);
  router->send(DispatchFrame(fields(5), {{1, 4}}).bytes());
  exchange_frames(*router);
  expect_failure(*router, Code::not_found, "layer 2 expert 4 is not held here");
  EXPECT_EQ(worker_.counters().frames_refused, 1u);
}

TEST_F(WorkerTest, ALayerWithoutExpertsIsAFailureFrame) {
  const auto router = make_router("r0", 5);
  FrameFields dense = fields(5);
  dense.layer = 1;
  router->send(DispatchFrame(dense, {{1}}).bytes());
  exchange_frames(*router);
  expect_failure(*router, Code::not_found, "layer 1 has no experts here");
}

TEST_F(WorkerTest, RowsOfAnotherSizeAreAFailureFrame) {
  const auto router = make_router("r0", 5);
  router->send(DispatchFrame(fields(5), {{1}}, Codec::f32, 48).bytes());
  exchange_frames(*router);
  expect_failure(*router, Code::invalid_argument, "rows of 48 elements; the model's hidden size is 44");
  router->answers.clear();
  expect_served(*router, 5);  // the link goes on
}

TEST_F(WorkerTest, AFrameOfAnotherGenerationIsDropped) {
  const auto router = make_router("r0", 5);
  router->send(DispatchFrame(fields(4), {{1}}).bytes());
  exchange_frames(*router);
  EXPECT_THAT(router->answers, SizeIs(0));
  EXPECT_EQ(worker_.counters().frames_refused, 1u);
  expect_served(*router, 5);
}

TEST_F(WorkerTest, ABadFrameOfAnotherGenerationLeavesTheLink) {
  const auto router = make_router("r0", 5);
  DispatchFrame frame(fields(4), {{1}});
  seal_frame(frame.bytes());
  frame.bytes().back() ^= std::byte{1};
  router->send(frame.bytes());
  exchange_frames(*router);
  EXPECT_EQ(worker_.counters().frames_refused, 1u);
  expect_served(*router, 5);
}

TEST_F(WorkerTest, AGarbageFrameDropsThatRouterOnly) {
  const auto good = make_router("r0", 5);
  for (int kind = 0; kind < 4; ++kind) {
    const auto bad = make_router("bad", 6);
    DispatchFrame frame(fields(6), {{1, 2}});
    std::span<std::byte> bytes = frame.bytes();
    if (kind == 0) bytes[0] ^= std::byte{1};               // magic
    if (kind == 1) bytes = bytes.first(bytes.size() - 8);  // truncated
    if (kind == 2) seal_frame(bytes), bytes.back() ^= std::byte{1};
    if (kind == 3) bytes = bytes.first(13);
    bad->send(bytes);
    exchange_frames(*bad);
    bad->send(DispatchFrame(fields(6), {{1}}).bytes());  // its link is over
    exchange_frames(*bad);
    EXPECT_THAT(bad->answers, SizeIs(0)) << "kind " << kind;
    expect_served(*good, 5);

    bad->reconnect();
    attach(*bad, 7);
    expect_served(*bad, 7);
  }
}

// ---- routers that come and go

TEST_F(WorkerTest, FramesThatOvertakeTheHelloAreServedAfterIt) {
  RouterEnd router(fabric_, "r0", end_->local_address());
  const DispatchFrame frame(fields(5), {{1}});
  router.send(frame.bytes());
  worker_.poll();
  attach(router, 5);
  exchange_frames(router);
  expect_answer(router, 0, frame);
}

TEST_F(WorkerTest, ADetachedRouterIsNotServed) {
  const auto router = make_router("r0", 5), other = make_router("r1", 6);
  worker_.detach_router("r0", 4);  // an older link's end
  worker_.detach_router("r1", 5);
  expect_served(*router, 5);
  worker_.detach_router("r0", 5);
  router->send(DispatchFrame(fields(5), {{1}}).bytes());
  exchange_frames(*router);
  EXPECT_THAT(router->answers, SizeIs(1));
  expect_served(*other, 6);
}

TEST_F(WorkerTest, ARouterThatGreetsAnewReplacesItsOldLink) {
  const auto router = make_router("r0", 5);
  expect_served(*router, 5);
  router->reconnect();
  attach(*router, 9);  // the old link's end was not noticed yet
  expect_served(*router, 9);
  worker_.detach_router("r0", 5);  // it is now
  expect_served(*router, 9);
}

TEST_F(WorkerTest, ALostRouterLeavesTheOthers) {
  auto lost = make_router("r0", 5);
  const auto other = make_router("r1", 6);
  lost.reset();
  expect_served(*other, 6);
  const auto again = make_router("r0", 7);
  expect_served(*again, 7);
}

TEST_F(WorkerTest, AnAddressThatCannotBeReachedIsTold) {
  std::optional<Status> why;
  worker_.attach_router("r0", "loopback:999999", 5, [&](Result<void> done) { why = done.error(); });
  worker_.poll();
  ASSERT_TRUE(why.has_value());
  EXPECT_THAT(why->message, HasSubstr("r0"));
}

TEST_F(WorkerTest, RunsOnAThreadOfItsOwnUntilStopped) {
  std::thread serve([&] { worker_.run(); });
  RouterEnd router(fabric_, "r0", end_->local_address());
  worker_.attach_router("r0", router.exchange->local_address(), 5, [](Result<void>) {});
  for (size_t i = 0; i < 20; ++i) {
    const DispatchFrame frame(fields(5), {{1, 2}}, Codec::f32, tiny_model().hidden, static_cast<uint32_t>(i));
    router.send(frame.bytes());
    while (router.answers.size() <= i)
      if (router.poll() == 0) router.exchange->wait(std::chrono::milliseconds(20));
    expect_answer(router, i, frame);
    if (i == 10) worker_.set_store(load_experts({1, 2}));
  }
  worker_.stop();
  serve.join();
}

}  // namespace
}  // namespace guildhall
