// routing_recorder_test.cc: what the gate chose is counted once, by phase, for steps that succeeded.
#include "router/routing_recorder.h"

#include <thread>

#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RoutingRecorderTest : public ::testing::Test {
 protected:
  const ExpertLoad& load(int64_t layer, int64_t expert) {
    window_ = recorder_.window();
    return window_.loads.load_le[static_cast<size_t>(layer)][static_cast<size_t>(expert)];
  }
  RoutingRecorder recorder_{routing_fixture_options()};
  StepRouting step_{recorder_};
  RoutingWindow window_;
};

TEST_F(RoutingRecorderTest, TokensAreOfDecodesOrOfPrefill) {
  Chunks chunks;
  chunks.decode().prompt(2).recompute(1).decode();
  step_.begin(chunks.list());
  EXPECT_EQ(step_.count(1, 0, ChoiceRows{0, 1, /**/ 0, 2, 0, 3, /**/ 4, 3, /**/ 0, 1}), 5);
  step_.commit();
  EXPECT_EQ(load(1, 0).decode_tokens, 2);
  EXPECT_EQ(load(1, 0).prefill_tokens, 2);
  EXPECT_EQ(load(1, 0).active_steps, 1);
  EXPECT_EQ(load(1, 0).decode_active_steps, 1);
  EXPECT_EQ(load(1, 1).decode_tokens, 2);
  EXPECT_EQ(load(1, 1).prefill_tokens, 0);
  EXPECT_EQ(load(1, 3).prefill_tokens, 2) << "a text that is computed again is prefill";
  EXPECT_EQ(load(1, 3).decode_active_steps, 0);
  EXPECT_EQ(load(1, 7).active_steps, 0);
  EXPECT_THAT(window_.loads.load_le[0], IsEmpty());
  EXPECT_EQ(window_.loads.num_steps, 1);
}

// Each reads the weights of its experts.
TEST_F(RoutingRecorderTest, MicroBatchesAreActivationsOfTheirOwn) {
  Chunks chunks;
  chunks.decode().decode().prompt(1);
  step_.begin(chunks.list());
  EXPECT_EQ(step_.count(1, 0, ChoiceRows{0, 1, 0, 2}), 3);
  EXPECT_EQ(step_.count(1, 2, ChoiceRows{0, 5}), 2);
  step_.commit();
  EXPECT_EQ(load(1, 0).active_steps, 2);
  EXPECT_EQ(load(1, 0).decode_active_steps, 1);
  EXPECT_EQ(load(1, 0).tokens(), 3);
  EXPECT_EQ(load(1, 5).active_steps, 1);
  EXPECT_EQ(window_.loads.num_steps, 1);
  const RoutingTotals totals = recorder_.totals();
  EXPECT_EQ(totals.num_steps, 1);
  EXPECT_EQ(totals.load.decode_tokens, 4);
  EXPECT_EQ(totals.load.prefill_tokens, 2);
  EXPECT_EQ(totals.load.active_steps, 5);
}

TEST_F(RoutingRecorderTest, AStepThatFailedIsForgotten) {
  Chunks chunks;
  chunks.decode();
  step_.begin(chunks.list());
  step_.count(1, 0, ChoiceRows{0, 1});
  commit_decode(step_);
  EXPECT_EQ(load(1, 0).tokens(), 1);
  EXPECT_EQ(load(2, 2).tokens(), 1);
  EXPECT_EQ(load(1, 0).active_steps, 1);
  EXPECT_EQ(recorder_.totals().load.tokens(), 4);
  EXPECT_EQ(window_.loads.num_steps, 1);
}

TEST_F(RoutingRecorderTest, FramesAreCountedByWorkerAndLayer) {
  Chunks chunks;
  chunks.decode();
  DispatchRound round{.layer = 2, .share_w = std::vector<DispatchRound::Share>(2)};
  round.share_w[1].pairs.resize(2);
  for (const bool fails : {true, false}) {
    step_.begin(chunks.list());
    step_.sent(round, 0, 100);
    step_.sent(round, 1, 200);
    step_.answered(round, 1, 50);
    if (fails) continue;
    step_.count(2, 0, ChoiceRows{6, 7});
    step_.answered(round, 0, 10);
    step_.commit();
  }
  const RoutingWindow window = recorder_.window();
  const WorkerTraffic w1 = window.worker(1);
  EXPECT_EQ(w1.frames, 1);
  EXPECT_EQ(w1.pairs, 2);
  EXPECT_EQ(w1.bytes_sent, 200);
  EXPECT_EQ(w1.bytes_received, 50);
  EXPECT_GE(w1.answer_ns, 0);
  EXPECT_EQ(window.worker(0).bytes_received, 10);
  EXPECT_EQ(window.traffic_lw[2 * 2 + 1], w1) << "it is all of layer 2";
  EXPECT_EQ(recorder_.totals().traffic_w[1], w1);
}

TEST_F(RoutingRecorderTest, EnginesOfARouterAreSummedInOneWindow) {
  RoutingRecorder recorder(routing_fixture_options(16));
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) {
      const RoutingWindow window = recorder.window();
      EXPECT_LE(window.loads.num_steps, 16);
      EXPECT_EQ(window.loads.load_le[1][0].tokens(), window.loads.num_steps);
      recorder.set_window_steps(16);
    }
  });
  std::vector<std::thread> engines;
  for (int i = 0; i < 2; ++i)
    engines.emplace_back([&] {
      StepRouting step(recorder);
      for (int n = 0; n < 2000; ++n) commit_decode(step);
    });
  for (std::thread& engine : engines) engine.join();
  done = true;
  reader.join();
  EXPECT_EQ(recorder.totals().num_steps, 4000);
  EXPECT_EQ(recorder.totals().load.decode_tokens, 16000);
  EXPECT_GE(recorder.window().loads.num_steps, 15);
  EXPECT_LE(recorder.window().begin_ns, recorder.window().end_ns);
}

TEST_F(RoutingRecorderTest, AStepIsWhatATraceHasOfIt) {
  Chunks chunks;
  chunks.decode().prompt(2);
  step_.begin(chunks.list());
  step_.count(1, 0, ChoiceRows{7, 1, 5, 2, 2, 7});
  step_.count(2, 1, ChoiceRows{0, 1, 0, 1});
  step_.count(2, 0, ChoiceRows{4, 3});
  const TraceStep step = step_.trace_step();
  EXPECT_EQ(step.decode_tokens, 1);
  EXPECT_EQ(step.prefill_tokens, 2);
  using Tokens = ExpertTokens;
  EXPECT_THAT(step.decode_le,
              ElementsAre(ElementsAre(Tokens{1, 1}, Tokens{7, 1}), ElementsAre(Tokens{3, 1}, Tokens{4, 1})));
  EXPECT_THAT(step.prefill_le, ElementsAre(ElementsAre(Tokens{2, 2}, Tokens{5, 1}, Tokens{7, 1}),
                                           ElementsAre(Tokens{0, 2}, Tokens{1, 2})));
}

}  // namespace
}  // namespace guildhall
