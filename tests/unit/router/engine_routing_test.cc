// engine_routing_test.cc: the engine counts what its gate chooses: every token of every step that succeeded,
// once.
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

class EngineRouting : public EngineTest {
 protected:
  // Pairs over all experts of one layer, and checks that all layers have as many.
  ExpertLoad load_of_each_layer() {
    const Loads loads = local_->recorder().window().loads;
    std::optional<ExpertLoad> of_layer;
    for (const int32_t layer : local_->recorder().shape().moe_layers) {
      ExpertLoad sum;
      for (const ExpertLoad& load : loads.load_le[static_cast<size_t>(layer)]) sum += load;
      if (!of_layer) of_layer = sum;
      EXPECT_EQ(sum.prefill_tokens, of_layer->prefill_tokens);
      EXPECT_EQ(sum.decode_tokens, of_layer->decode_tokens);
    }
    return of_layer.value();
  }
  int64_t top_k() { return local_->spec().moe.top_k; }
};

TEST_F(EngineRouting, EveryTokenIsCountedOnceByItsPhase) {
  start();
  local_->run(request(5, 7));
  const ExpertLoad load = load_of_each_layer();
  EXPECT_EQ(load.prefill_tokens, 5 * top_k());
  EXPECT_EQ(load.decode_tokens, 6 * top_k()) << "the last token is not computed";
  EXPECT_EQ(load.decode_active_steps, 6 * top_k());
  const RoutingTotals totals = local_->recorder().totals();
  EXPECT_EQ(totals.num_steps, 7);
  int64_t pairs = 0;
  for (const WorkerTraffic& traffic : totals.traffic_w) {
    pairs += traffic.pairs;
    EXPECT_EQ(traffic.frames, 7 * static_cast<int64_t>(local_->recorder().shape().moe_layers.size()));
    EXPECT_GT(traffic.bytes_sent, 0);
    EXPECT_GT(traffic.bytes_received, 0);
    EXPECT_GT(traffic.answer_ns, 0);
  }
  EXPECT_EQ(pairs, totals.load.tokens());
}

TEST_F(EngineRouting, AStepThatALostWorkerMadeVoidIsNotCounted) {
  start({.prefix_caching = false});
  std::vector<int32_t> tokens;
  std::atomic<bool> ended{false};
  ASSERT_TRUE(engine().submit(request(5, 7), [&](EngineEvent&& event) {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    if (tokens.size() == 3 && !event.tokens.empty())
      local_->kill_worker(1);  // the third token's own step fails
    if (event.finish) ended = true;
  }));
  local_->wait_for_loss();
  local_->attach_worker(1);
  while (!ended) std::this_thread::yield();
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  ASSERT_EQ(engine().counters().preemptions_recompute, 1);
  const ExpertLoad load = load_of_each_layer();
  EXPECT_EQ(load.prefill_tokens, (5 + 5 + 3) * top_k()) << "what is computed again is prefill";
  EXPECT_EQ(load.decode_tokens, (2 + 3) * top_k());
}

TEST_F(EngineRouting, TwoMicroBatchesCountWhatOneCounts) {
  std::vector<Loads> loads;
  for (const MicroBatches micro_batches : {MicroBatches::one, MicroBatches::two}) {
    start({.prefix_caching = false, .worker_threads = true, .micro_batches = micro_batches});
    std::vector<std::future<Completion>> all;
    {
      HoldingRequest first(engine(), request(3, 9));
      for (int64_t i = 0; i < 4; ++i) all.push_back(local_->submit(request(6 + i, 9)));
    }
    for (auto& completion : all) completion.wait();
    wait_for_counters([](const EngineCounters& c) { return c.running == 0 && c.waiting == 0; });
    loads.push_back(local_->recorder().window().loads);
    local_.reset();
  }
  for (size_t layer = 0; layer < loads[0].load_le.size(); ++layer)
    for (size_t e = 0; e < loads[0].load_le[layer].size(); ++e) {
      const ExpertLoad &one = loads[0].load_le[layer][e], &two = loads[1].load_le[layer][e];
      EXPECT_EQ(one.prefill_tokens, two.prefill_tokens);
      EXPECT_EQ(one.decode_tokens, two.decode_tokens);
      EXPECT_LE(one.active_steps, two.active_steps);
    }
}

}  // namespace
}  // namespace guildhall
