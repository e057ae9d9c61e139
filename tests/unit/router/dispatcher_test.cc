// dispatcher_test.cc: what is sent to whom, and that what comes back is summed in gate order.
#include "tests/unit/router/dispatcher_fixture.h"
#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(DispatcherTest, SendsEachTokenOncePerWorkerWithItsPairs) {
  make({.num_workers = 2, .top_k = 3});
  choose({{0, 2, 1}, {5, 3, 1}, {4, 5, 0}});  // even experts live on w0, odd ones on w1
  ASSERT_TRUE(step());
  ASSERT_EQ(worker(0).frames.size(), 1u);
  ASSERT_EQ(worker(1).frames.size(), 1u);

  const auto pairs = [](const DispatchView& d) {
    std::vector<std::array<int, 3>> list;
    for (const DispatchPair& p : d.pairs) list.push_back({static_cast<int>(p.row), p.expert, p.gate_rank});
    return list;
  };
  const auto tokens = [](const DispatchView& d) {
    std::vector<float> first;
    for (size_t i = 0; i < d.header.num_rows; ++i)
      first.push_back(decoded(Codec::f32, d.row(i), d.header.hidden)[0]);
    return first;
  };
  using P = std::array<int, 3>;
  const DispatchView to_w0 = worker(0).received(0), to_w1 = worker(1).received(0);
  EXPECT_THAT(tokens(to_w0), ElementsAre(1, 3));
  EXPECT_THAT(pairs(to_w0), ElementsAre(P{0, 0, 0}, P{0, 2, 1}, P{1, 4, 0}, P{1, 0, 2}));
  EXPECT_THAT(tokens(to_w1), ElementsAre(1, 2, 3));
  EXPECT_THAT(pairs(to_w1), ElementsAre(P{0, 1, 2}, P{1, 5, 0}, P{1, 3, 1}, P{1, 1, 2}, P{2, 5, 1}));
  EXPECT_EQ(to_w0.pairs[1].weight, weights()(0, 1));
  EXPECT_EQ(to_w1.pairs[0].weight, weights()(0, 2));
}

TEST_F(DispatcherTest, StampsGenerationLayerPlacementAndAGrowingStep) {
  make({});
  choose({{0, 1}});
  ASSERT_TRUE(step());
  ASSERT_TRUE(step());
  const FrameHeader first = worker(1).received(0).header, second = worker(1).received(1).header;
  EXPECT_EQ(first.generation, generation(1));
  EXPECT_EQ(first.layer, kLayer);
  EXPECT_EQ(first.placement_version, 4u);  // of w1's announcement
  EXPECT_EQ(worker(0).received(0).header.placement_version, 3u);
  EXPECT_EQ(worker(0).received(0).header.step_id, first.step_id);
  EXPECT_GT(second.step_id, first.step_id);
}

TEST_F(DispatcherTest, SendsAnEmptyDispatchToAWorkerWithoutRowsAndAwaitsItsAnswer) {
  make({.num_workers = 3});
  choose({{0, 3}, {3, 0}});  // all on w0
  expect_a_good_step();
  EXPECT_EQ(worker(0).frames.size(), 1u);
  for (int w : {1, 2}) {
    ASSERT_EQ(worker(w).frames.size(), 1u);
    EXPECT_EQ(worker(w).received(0).header.num_rows, 0u);
    EXPECT_THAT(worker(w).received(0).pairs, IsEmpty());
  }
  dispatcher_->poll();
  EXPECT_EQ(dispatcher_->counters().stale_frames, 0);
}

TEST_F(DispatcherTest, ADispatchOfNoTokensIsAnsweredAndDone) {
  make({});
  choose({});
  ASSERT_TRUE(step());
  EXPECT_EQ(worker(0).received(0).header.num_rows, 0u);
  EXPECT_EQ(worker(1).received(0).header.num_rows, 0u);
  choose({{0, 1}});
  expect_a_good_step();
}

TEST_F(DispatcherTest, CountsPairsExpertsAndBytes) {
  RoutingRecorder recorder(
      {.shape = {.num_layers = 2, .num_experts = 6, .top_k = 2, .moe_layers = {kLayer}}, .num_workers = 2});
  StepRouting routing(recorder);
  routing_ = &routing;
  make({});
  Chunks chunks;
  chunks.prompt(3);
  routing.begin(chunks.list());
  choose({{0, 1}, {1, 0}, {0, 2}});
  ASSERT_TRUE(step());
  routing.commit();
  const RoutingTotals totals = recorder.totals();
  EXPECT_EQ(totals.load.prefill_tokens, 6);
  EXPECT_EQ(totals.load.active_steps, 3);
  EXPECT_EQ(totals.traffic_w[0].pairs, 4) << "experts 0 and 2";
  EXPECT_EQ(totals.traffic_w[1].pairs, 2);
  EXPECT_EQ(totals.traffic_w[0].bytes_sent, static_cast<int64_t>(worker(0).frames[0].size()));
  EXPECT_EQ(totals.traffic_w[0].bytes_received + totals.traffic_w[1].bytes_received,
            dispatcher_->counters().bytes_received);
  EXPECT_GT(totals.traffic_w[1].answer_ns, 0);
  const DispatchCounters& counters = dispatcher_->counters();
  EXPECT_EQ(counters.dispatches, 1);
  EXPECT_EQ(counters.pairs, 6);
  EXPECT_EQ(counters.experts_touched, 3);
  EXPECT_EQ(counters.bytes_sent,
            static_cast<int64_t>(worker(0).frames[0].size() + worker(1).frames[0].size()));
  EXPECT_GT(counters.bytes_received, 0);
  EXPECT_EQ(counters.stale_frames, 0);
}

// ---- hints

TEST_F(DispatcherTest, HintsGoToThoseWhoOffloadWithWhatTheyHoldTheLikeliestFirst) {
  make({.num_workers = 3, .num_experts = 9, .top_k = 2, .offloading = {0, 2}});  // e lives on w(e mod 3)
  choose({{0, 1}});
  ASSERT_TRUE(step());
  EXPECT_TRUE(dispatcher_->has_offloading_workers());
  const std::vector<int32_t> predicted{6, 2, 0, 3, 3, 4, 6, 3};
  dispatcher_->hint(kLayer, {predicted.data(), 4, 2});
  expect_a_good_step();  // and they are no answers, nor asked for any
  ASSERT_EQ(worker(0).hints.size(), 1u);
  EXPECT_EQ(worker(0).hints[0].layer, kLayer);
  EXPECT_THAT(worker(0).hints[0].experts, ElementsAre(3, 6, 0));
  ASSERT_EQ(worker(2).hints.size(), 1u);
  EXPECT_THAT(worker(2).hints[0].experts, ElementsAre(2));
  EXPECT_THAT(worker(1).hints, IsEmpty());
}

TEST_F(DispatcherTest, WhoHoldsNoneOfThemGetsNoHint) {
  make({.num_workers = 2, .offloading = {1}});
  const std::vector<int32_t> predicted{0, 2};
  dispatcher_->hint(kLayer, {predicted.data(), 1, 2});
  choose({{0, 1}});
  expect_a_good_step();
  EXPECT_THAT(worker(1).hints, IsEmpty());
}

TEST_F(DispatcherTest, NobodyOffloadsOnceTheOneThatDidIsGoneOrSaysSo) {
  make({.num_workers = 2, .offloading = {1}});
  EXPECT_TRUE(dispatcher_->has_offloading_workers());
  Holdings held = holdings(1);
  held.offloads = false;
  dispatcher_->set_holdings(1, held);
  EXPECT_FALSE(dispatcher_->has_offloading_workers());
  dispatcher_->set_holdings(1, holdings(1));
  EXPECT_TRUE(dispatcher_->has_offloading_workers());
  dispatcher_->detach(1);
  EXPECT_FALSE(dispatcher_->has_offloading_workers());
  const std::vector<int32_t> predicted{1, 3};
  dispatcher_->hint(kLayer, {predicted.data(), 1, 2});  // to nobody
}

struct Arrangement {
  std::string name;
  int num_workers;
  RowCodecs codecs;
  Combine combine = Combine::exact;
};
class DispatcherSums : public DispatcherTest, public ::testing::WithParamInterface<Arrangement> {};

TEST_P(DispatcherSums, InOrderWhereverTheExpertsLive) {
  make({.num_workers = GetParam().num_workers,
        .num_experts = 11,
        .top_k = 5,
        .hidden = 7,
        .max_tokens = 64,
        .codecs = GetParam().codecs,
        .combine = GetParam().combine});
  for (const int64_t num_tokens : {1, 3, 64}) {
    choose_randomly(num_tokens, static_cast<uint64_t>(num_tokens));
    expect_a_good_step();
  }
}

constexpr RowCodecs kF32{}, kBf16{Codec::bf16, Codec::bf16}, kFp8{Codec::fp8, Codec::fp8},
    kFp8Out{Codec::fp8, Codec::bf16};

INSTANTIATE_TEST_SUITE_P(WorkersAndCodecs, DispatcherSums,
                         ::testing::Values(Arrangement{"1_f32", 1, kF32}, Arrangement{"2_f32", 2, kF32},
                                           Arrangement{"5_f32", 5, kF32}, Arrangement{"11_f32", 11, kF32},
                                           Arrangement{"1_bf16", 1, kBf16}, Arrangement{"3_bf16", 3, kBf16},
                                           Arrangement{"3_fp8", 3, kFp8},
                                           Arrangement{"3_fp8_out", 3, kFp8Out},
                                           Arrangement{"1_f32_reduced", 1, kF32, Combine::reduced},
                                           Arrangement{"3_f32_reduced", 3, kF32, Combine::reduced},
                                           Arrangement{"11_f32_reduced", 11, kF32, Combine::reduced},
                                           Arrangement{"3_fp8_out_reduced", 3, kFp8Out, Combine::reduced}),
                         [](const auto& info) { return info.param.name; });

TEST_F(DispatcherTest, EachWorkerHasItsOwnCodecs) {
  make({.num_workers = 3, .codecs = kF32, .codecs_of_w1 = kFp8Out});
  choose_randomly(8, 3);
  expect_a_good_step();
  const FrameHeader to_w0 = worker(0).received(0).header, to_w1 = worker(1).received(0).header;
  EXPECT_EQ(codec_of(to_w0), Codec::f32);
  EXPECT_EQ(to_w0.answer_codec, static_cast<int>(Codec::f32));
  EXPECT_EQ(codec_of(to_w1), Codec::fp8);
  EXPECT_EQ(to_w1.answer_codec, static_cast<int>(Codec::bf16));
}

TEST_F(DispatcherTest, AReducedCombineReturnsOneRowPerTokenAndWorker) {
  make({.num_workers = 2, .top_k = 3, .combine = Combine::reduced});
  choose({{0, 2, 1}, {5, 3, 1}, {4, 5, 0}});
  std::vector<uint32_t> rows_w(2);
  for (int w = 0; w < 2; ++w)
    worker(w).serve = [&, w](const DispatchView& d) {
      EXPECT_EQ(combine_of(d.header), Combine::reduced);
      rows_w[static_cast<size_t>(w)] = answer_shape(d.header).num_rows;
      worker(w).answer(d);
    };
  expect_a_good_step();
  EXPECT_THAT(rows_w, ElementsAre(2, 3));
}

TEST_F(DispatcherTest, AnswersInAnyOrderGiveTheSameSum) {
  make({.num_workers = 3, .num_experts = 9, .top_k = 4});
  choose_randomly(6, 1);
  std::vector<std::function<void()>> held;
  for (int w = 0; w < 3; ++w)
    worker(w).serve = [&, w](const DispatchView& d) {
      held.push_back([&, w, bytes = worker(w).combine_frame(d, ScriptedWorker::fields_of(d.header))] {
        worker(w).send(bytes);
      });
      if (held.size() == 3)
        for (auto answer = held.rbegin(); answer != held.rend(); ++answer) (*answer)();
    };
  expect_a_good_step();
}

TEST_F(DispatcherTest, IsAttachedWhenEveryWorkerOfThePlacementIs) {
  make({});
  EXPECT_TRUE(all_attached());
  dispatcher_->detach(0);
  EXPECT_FALSE(all_attached());
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());  // by our own will
  reattach(0);
  EXPECT_TRUE(all_attached());
}

}  // namespace
}  // namespace guildhall
