// worker_test.cc: a worker polled by the test, and routers that are raw loopback ends.
#include "experts/worker.h"

#include <array>
#include <thread>

#include "base/clock.h"
#include "kernels/cpu_ops.h"
#include "proto/hint_codec.h"
#include "tests/unit/experts/played_experts.h"
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
  WorkerTest()
      : end_(fabric_.make_end("w0")), worker_(tiny_model(), *end_, make_cpu_ops({.num_threads = 2})) {
    worker_.set_store(all_experts());
  }

  std::unique_ptr<RouterEnd> make_router(const std::string& name, uint64_t generation) {
    auto router = std::make_unique<RouterEnd>(fabric_, name, end_->local_address());
    attach(*router, generation);
    return router;
  }
  void attach(RouterEnd& router, uint64_t generation) {
    bool attached = false;
    worker_.attach_router(
        router.name, router.exchange->local_address(), generation,
        [&](Result<void> done) {
          EXPECT_FALSE(done.has_error());
          attached = true;
        },
        [this, generation](const Status& why) { losses_.emplace_back(generation, why); });
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
  std::vector<std::pair<uint64_t, Status>> losses_;  // told: of which generation, and why
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

// ---- several routers

TEST_F(WorkerTest, FramesOfRoutersForOneLayerRunTogetherWithTheBitsOfRunningAlone) {
  const auto r0 = make_router("r0", 5), r1 = make_router("r1", 6), r2 = make_router("r2", 7);
  const DispatchFrame a(fields(5), {{1, 2}, {8, 0, 3}}), b(fields(6), {{4}, {3, 1}}, Codec::bf16),
      c(fields(7), {{2, 1}});
  r0->send(a.bytes());
  exchange_frames(*r0);
  r1->send(b.bytes());
  exchange_frames(*r1);
  EXPECT_EQ(worker_.counters().runs, 2u);

  r0->send(a.bytes());
  r1->send(b.bytes());
  r2->send(c.bytes());
  EXPECT_TRUE(worker_.poll());
  EXPECT_EQ(worker_.counters().runs, 3u);
  EXPECT_EQ(worker_.counters().frames_served, 5u);
  for (RouterEnd* router : {r0.get(), r1.get(), r2.get()}) router->poll();
  ASSERT_THAT(r0->answers, SizeIs(2));
  ASSERT_THAT(r1->answers, SizeIs(2));
  EXPECT_EQ(r0->answers[1], r0->answers[0]);
  EXPECT_EQ(r1->answers[1], r1->answers[0]);
  expect_answer(*r2, 0, c);
}

TEST_F(WorkerTest, FramesOfDifferentLayersRunApart) {
  const auto r0 = make_router("r0", 5), r1 = make_router("r1", 6);
  FrameFields first = fields(5);
  first.layer = 0;
  const DispatchFrame a(first, {{1, 2}}), b(fields(6), {{4}});
  r0->send(a.bytes());
  r1->send(b.bytes());
  EXPECT_TRUE(worker_.poll());
  EXPECT_EQ(worker_.counters().runs, 2u);
  r0->poll(), r1->poll();
  expect_answer(*r0, 0, a);
  expect_answer(*r1, 0, b);
}

TEST_F(WorkerTest, ARefusedFrameLeavesThoseItWouldHaveRunWith) {
  worker_.set_store(load_experts({1, 2}));
  const auto r0 = make_router("r0", 5), r1 = make_router("r1", 6);
  const DispatchFrame good(fields(5), {{1, 2}});
  r0->send(good.bytes());
  r1->send(DispatchFrame(fields(6), {{4}}).bytes());
  worker_.poll();
  r0->poll(), r1->poll();
  expect_answer(*r0, 0, good);
  expect_failure(*r1, Code::not_found, "expert 4 is not held here");
}

// The flood's frames are kept while others are heard: each round serves one of every router.
TEST_F(WorkerTest, ARouterThatFloodsDelaysAnotherByOneRoundAtMost) {
  const auto flood = make_router("r0", 5), other = make_router("r1", 6);
  std::vector<DispatchFrame> sent;
  for (uint32_t i = 0; i < DispatchQueue::kMaxPerRouter; ++i)
    sent.emplace_back(fields(5), std::vector<std::vector<uint16_t>>{{1, 2}, {3}}, Codec::f32,
                      tiny_model().hidden, i);
  for (const DispatchFrame& frame : sent) flood->send(frame.bytes());
  const DispatchFrame wanted(fields(6), {{4}});
  for (size_t round = 0; round < 5; ++round) {
    other->send(wanted.bytes());
    worker_.poll();
    other->poll(), flood->poll();
    ASSERT_THAT(other->answers, SizeIs(round + 1));
    EXPECT_THAT(flood->answers, SizeIs(round + 1));
  }
  exchange_frames(*flood);
  ASSERT_THAT(flood->answers, SizeIs(sent.size()));
  for (size_t i = 0; i < sent.size(); ++i) expect_answer(*flood, i, sent[i]);
}

TEST_F(WorkerTest, MoreFramesThanMayWaitAreRefusedAndTheLinkGoesOn) {
  const auto flood = make_router("r0", 5), other = make_router("r1", 6);
  const DispatchFrame frame(fields(5), {{1}});
  for (size_t i = 0; i < DispatchQueue::kMaxPerRouter + 2; ++i) flood->send(frame.bytes());
  exchange_frames(*flood);
  size_t num_refused = 0;
  for (const auto& answer : flood->answers)
    if (const Result<FailureView> failure = decode_failure(answer); !failure.has_error()) {
      EXPECT_EQ(failure->why.code, Code::resource_exhausted);
      EXPECT_EQ(failure->why.message, "16 dispatches of router r0 wait here already");
      ++num_refused;
    }
  EXPECT_EQ(num_refused, 2u);
  EXPECT_THAT(flood->answers, SizeIs(DispatchQueue::kMaxPerRouter + 2));
  expect_served(*flood, 5);
  expect_served(*other, 6);
}

TEST_F(WorkerTest, WhatALostRouterLeftWaitingIsForgotten) {
  auto lost = make_router("r0", 5);
  const auto other = make_router("r1", 6);
  for (int i = 0; i < 5; ++i) lost->send(DispatchFrame(fields(5), {{1}}).bytes());
  worker_.poll();  // serves one
  lost.reset();
  expect_served(*other, 6);
  ASSERT_THAT(losses_, SizeIs(1));
  EXPECT_EQ(losses_[0].first, 5u);
  EXPECT_EQ(losses_[0].second.code, Code::peer_lost);
  EXPECT_LT(worker_.counters().frames_served, 6u);
}

// ---- other workers

TEST_F(WorkerTest, WorkersThatAskAreGivenOneChunkBetweenTwoRounds) {
  const auto router = make_router("r0", 5);
  std::vector<std::unique_ptr<RouterEnd>> askers;
  for (const uint64_t generation : {6, 7}) {
    const std::string name = "w" + std::to_string(generation);
    askers.push_back(std::make_unique<RouterEnd>(fabric_, name, end_->local_address()));
    const WorkerPeer peer{name, askers.back()->exchange->local_address(), generation};
    worker_.use_weight_links([peer](WeightLinks& links) {
      EXPECT_FALSE(links.attach_asker(peer, [](const Status&) {}).has_error());
    });
  }
  worker_.poll();
  for (size_t i = 0; i < askers.size(); ++i) {
    alignas(8) std::array<std::byte, kWeightsRequestBytes> request;
    write_weights_request(6 + i, 1, {.layer = 2, .expert = 3, .max_bytes = 100}, request);
    askers[i]->send(request);
  }
  for (int i = 0; i < 3; ++i) router->send(DispatchFrame(fields(5), {{1}}).bytes());
  const auto num_given = [&] {
    size_t given = 0;
    for (const auto& asker : askers) asker->poll(), given += asker->answers.size();
    return given;
  };
  for (size_t round = 1; round <= 3; ++round) {
    worker_.poll();
    router->poll();
    EXPECT_THAT(router->answers, SizeIs(round));
    EXPECT_EQ(num_given(), std::min<size_t>(round, 2));
  }
  const auto chunk = decode_weights(askers[1]->answers[0]);
  ASSERT_FALSE(chunk.has_error()) << chunk.error().message;
  EXPECT_EQ(chunk->chunk.total_bytes, static_cast<uint64_t>(expert_bytes(tiny_model())));
  EXPECT_TRUE(std::ranges::equal(chunk->chunk.bytes,
                                 std::span<const std::byte>(all_experts()->share(2, 3)->memory.data(), 100)));
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

// The router hears of it in place of its answer; others', of the same run, are answered.
TEST_F(WorkerTest, AnOffloadedExpertThatCannotBeReadIsAFailureFrame) {
  const auto cold = std::make_shared<PlayedExperts>(3, worker_.memory());
  cold->let_pass(1000);
  cold->broken = 5;
  worker_.set_offloaded(cold, experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}));
  const auto unlucky = make_router("r0", 5), other = make_router("r1", 6);
  const DispatchFrame bad(fields(5), {{5}}), good(fields(6), {{1, 2}, {8}});
  unlucky->send(bad.bytes());
  other->send(good.bytes());
  exchange_frames(*unlucky);
  other->poll();
  expect_failure(*unlucky, Code::unavailable, "layer 2 expert 5 could not be brought into memory");
  expect_answer(*other, 0, good);
  cold->broken = -1;
  unlucky->send(bad.bytes());
  exchange_frames(*unlucky);
  expect_answer(*unlucky, 1, bad);
  ASSERT_TRUE(worker_.counters().offload);
  EXPECT_EQ(worker_.counters().offload->load_errors, 1u);
}

TEST_F(WorkerTest, HintedExpertsAreThereWhenTheirRowsCome) {
  const auto cold = std::make_shared<PlayedExperts>(9, worker_.memory());
  cold->let_pass(1000);
  worker_.set_offloaded(cold, experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}));
  const auto router = make_router("r0", 5);
  const std::vector<uint16_t> likely{5, 3};
  const std::unique_ptr<uint64_t[]> words(new uint64_t[hint_frame_bytes(2) / 8]);
  const std::span bytes(reinterpret_cast<std::byte*>(words.get()), hint_frame_bytes(2));
  write_hint(5, 1, 2, likely, bytes);
  router->send(bytes);
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (worker_.counters().offload->resident_experts < 2 && Clock::now() < deadline) worker_.poll();
  const DispatchFrame frame(fields(5), {{3, 5}});
  router->send(frame.bytes());
  exchange_frames(*router);
  expect_answer(*router, 0, frame);
  const ResidentSums sums = *worker_.counters().offload;
  EXPECT_EQ(sums.prefetched_used, 2u);
  EXPECT_EQ(sums.hits, 2u);
  EXPECT_EQ(sums.waits, 0u);
}

TEST_F(WorkerTest, HintsAreNothingToAWorkerWithAllInMemory) {
  const auto router = make_router("r0", 5);
  alignas(8) std::array<std::byte, 80> bytes;
  const uint16_t expert = 4095;
  router->send(std::span(bytes).first(write_hint(5, 1, 1023, {&expert, 1}, bytes)));
  exchange_frames(*router);
  expect_served(*router, 5);
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
  for (int kind = 0; kind < 5; ++kind) {
    const auto bad = make_router("bad", 6);
    DispatchFrame frame(fields(6), {{1, 2}});
    std::span<std::byte> bytes = frame.bytes();
    if (kind == 0) bytes[0] ^= std::byte{1};               // magic
    if (kind == 1) bytes = bytes.first(bytes.size() - 8);  // truncated
    if (kind == 2) seal_frame(bytes), bytes.back() ^= std::byte{1};
    if (kind == 3) bytes = bytes.first(13);
    alignas(8) std::array<std::byte, 80> hint;
    const uint16_t expert = 4095;
    if (kind == 4)
      bytes = std::span(hint).first(write_hint(6, 1, 2, {&expert, 1}, hint)), bytes[73] = std::byte{16};
    bad->send(bytes);
    exchange_frames(*bad);
    bad->send(DispatchFrame(fields(6), {{1}}).bytes());  // its link is over
    exchange_frames(*bad);
    EXPECT_THAT(bad->answers, SizeIs(0)) << "kind " << kind;
    expect_served(*good, 5);
    ASSERT_THAT(losses_, SizeIs(1)) << "its control link is told, once";
    EXPECT_EQ(losses_[0].first, 6u);
    EXPECT_EQ(losses_[0].second.code, Code::data_loss);
    EXPECT_THAT(losses_[0].second.message, HasSubstr("bad frame from router bad: frame refused"));
    losses_.clear();

    bad->reconnect();
    attach(*bad, 7);
    expect_served(*bad, 7);
    worker_.detach_router("bad", 7);
    exchange_frames(*bad);
    EXPECT_THAT(losses_, SizeIs(0)) << "who detached it knows";
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
  ASSERT_THAT(losses_, SizeIs(1));
  EXPECT_EQ(losses_[0].first, 5u);
  EXPECT_EQ(losses_[0].second.code, Code::peer_lost);
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
