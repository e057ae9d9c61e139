// engine_test.cc: a request's ends: finished, refused, cancelled, drained, stopped. Pages come back in each.
#include <random>

#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// ---- how a request ends by itself

TEST_F(EngineTest, StopsAtMaxTokens) {
  start();
  const Completion done = local_->run(request(5, 7));
  EXPECT_EQ(done.finish, FinishReason::length);
  EXPECT_THAT(done.tokens, SizeIs(7));
  expect_all_pages_free();
}

TEST_F(EngineTest, MaxTokensZeroScoresThePromptOnly) {
  start();
  EngineRequest scored = request(20, 0);
  scored.num_prompt_logprobs = 2;
  const Completion done = local_->run(scored);
  EXPECT_EQ(done.finish, FinishReason::length);
  EXPECT_THAT(done.tokens, IsEmpty());
  ASSERT_THAT(done.prompt_logprobs, SizeIs(19));
  EXPECT_EQ(done.prompt_logprobs[0].chosen.token, scored.prompt_ids[1]);
  EXPECT_THAT(done.prompt_logprobs[0].top, SizeIs(2));

  const Completion silent = local_->run(request(20, 0));
  EXPECT_EQ(silent.finish, FinishReason::length);
  EXPECT_THAT(silent.prompt_logprobs, IsEmpty());
  expect_all_pages_free();
}

TEST_F(EngineTest, AStopTokenIsReportedAndEndsTheRequest) {
  start();
  const Completion whole = local_->run(request(5, 20));
  EngineRequest stopping = request(5, 20);
  stopping.stop_token_ids = {-5, whole.tokens[6]};
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[6]);
  const Completion done = local_->run(stopping);
  EXPECT_EQ(done.finish, FinishReason::stop);
  EXPECT_THAT(done.tokens, ElementsAreArray(whole.tokens.begin(), first + 1));
}

TEST_F(EngineTest, TheModelsLengthEndsARequest) {
  start();
  const Completion done = local_->run(request(508, 100));
  EXPECT_EQ(done.finish, FinishReason::length);
  EXPECT_THAT(done.tokens, SizeIs(4));
  EXPECT_THAT(local_->run(request(511, 100)).tokens, SizeIs(1));
  expect_all_pages_free();
}

TEST_F(EngineTest, CountsPromptAndGeneratedTokens) {
  start({.prefix_caching = false});
  local_->run(request(30, 5));
  local_->run(request(70, 1));
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  EXPECT_EQ(engine().counters().prompt_tokens, 100);
  EXPECT_EQ(engine().counters().generated_tokens, 6);
  EXPECT_GT(engine().counters().experts_touched, 0);
}

TEST_F(EngineTest, CountsHowRequestsEndAndWhatTheyWaitedFor) {
  start();
  local_->run(request(30, 5));
  HoldingRequest completed(engine(), request(20, 100));
  engine().complete(completed.id);
  EXPECT_EQ(completed.finish().finish, FinishReason::stop);
  HoldingRequest cancelled(engine(), request(20, 100));
  engine().cancel(cancelled.id);
  EXPECT_EQ(cancelled.finish().finish, FinishReason::cancelled);
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  const EngineCounters counters = engine().counters();
  const ServingStats& stats = counters.serving;
  EXPECT_EQ(stats.finished, (std::array<int64_t, kNumFinishReasons>{1, 1, 1, 0}));
  EXPECT_EQ(stats.time_to_first_token.total(), 3);
  EXPECT_EQ(stats.queue_time.total(), 3);
  EXPECT_EQ(stats.end_to_end.total(), 2);
  EXPECT_GE(stats.inter_token_latency.total(), 4 + 1 + 1);
  EXPECT_EQ(stats.step_sequences.total(), counters.steps);
}

// ---- prefix caching

TEST_F(EngineTest, TheSameBitsComeOutOfTheCacheAsOfThePrompt) {
  start();
  EngineRequest whole = request(100, 40);
  whole.num_logprobs = 5;
  const Completion first = local_->run(whole), second = local_->run(whole);
  EXPECT_EQ(first.num_cached_tokens, 0);
  EXPECT_EQ(second.num_cached_tokens, 96);
  EXPECT_EQ(second.tokens, first.tokens);
  for (size_t i = 0; i < first.logprobs.size(); ++i)
    EXPECT_EQ(second.logprobs[i].chosen.logprob, first.logprobs[i].chosen.logprob) << i;
  expect_all_pages_free();
  const EngineCounters c = engine().counters();
  EXPECT_EQ(c.prompt_tokens, 104);
  EXPECT_EQ(c.prefix_tokens_found, 96);
  EXPECT_EQ(c.prefix_tokens_looked_up, 200);
}

TEST_F(EngineTest, ManyOfOnePromptComputeItOnce) {
  start();
  std::vector<std::future<Completion>> all;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    EngineRequest r = request(200, 4);
    r.sampling.temperature = 1, r.seed = seed;
    all.push_back(local_->submit(std::move(r)));
  }
  for (auto& one : all) EXPECT_EQ(one.get().finish, FinishReason::length);
  expect_all_pages_free();
  EXPECT_EQ(engine().counters().prompt_tokens,
            200 + 7);  // of each, its last token: also of the page not full
}

// Their experts would run on the engine's own thread: there is nothing to overlap.
TEST_F(EngineTest, WithWorkersInThisProcessAutomaticIsOneMicroBatch) {
  start();
  local_->run(request(200, 20));
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  EXPECT_EQ(engine().counters().steps_by_micro_batches[1], 0);
}

TEST_F(EngineTest, WithWorkersElsewhereAutomaticTriesBoth) {
  start({.max_batched_tokens = 20, .worker_threads = true});
  local_->run(request(200, 1));
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  EXPECT_GE(engine().counters().steps_by_micro_batches[0], 4);
  EXPECT_GE(engine().counters().steps_by_micro_batches[1], 4);
}

// ---- refusals

TEST_F(EngineTest, RefusesWhatItCannotRun) {
  start();
  expect_refused(local_->try_submit(request(0, 4)), Code::invalid_argument, "the prompt is empty");
  expect_refused(local_->try_submit(request(512, 1)), Code::invalid_argument,
                 "the prompt has 512 tokens; the largest prompt that leaves room for one more is 511");
  expect_refused(local_->try_submit(request(513, 0)), Code::invalid_argument, "the prompt has 513 tokens");
  expect_refused(local_->try_submit(request(3, -1)), Code::invalid_argument, "max_tokens is negative");
  EngineRequest unknown = request(3, 1);
  unknown.prompt_ids[1] = 277;
  expect_refused(local_->try_submit(unknown), Code::invalid_argument, "token id 277 is outside [0, 277)");
  unknown.prompt_ids[1] = -1;
  expect_refused(local_->try_submit(unknown), Code::invalid_argument, "token id -1 is outside [0, 277)");
}

TEST_F(EngineTest, RefusesMoreThanMaxWaiting) {
  start({.max_sequences = 1, .max_waiting = 2});
  HoldingRequest running(engine(), request(5, 10));
  auto first = local_->try_submit(request(5, 3)), second = local_->try_submit(request(5, 3));
  expect_refused(local_->try_submit(request(5, 3)), Code::resource_exhausted,
                 "2 requests are waiting (router.batching.max_waiting)");
  running.release();
  EXPECT_THAT(first->get().tokens, SizeIs(3));
  EXPECT_THAT(second->get().tokens, SizeIs(3));
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));  // there is room again
}

TEST_F(EngineTest, RefusesUntilEveryWorkerIsAttached) {
  start({.num_workers = 2, .attach_workers = false});
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "waiting for its expert workers");
  local_->attach_worker(0);
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "waiting for its expert workers");
  local_->attach_worker(1);
  while (!engine().serving()) std::this_thread::yield();
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
}

// ---- cancelling

TEST_F(EngineTest, CancelWhileRunningFreesItsPages) {
  start();
  HoldingRequest running(engine(), request(100, 400));
  EXPECT_GT(engine().counters().kv_pages_used, 0);
  engine().cancel(running.id);
  const Completion done = running.finish();
  EXPECT_EQ(done.finish, FinishReason::cancelled);
  EXPECT_THAT(done.tokens, SizeIs(2));
  EXPECT_FALSE(done.error.has_value());
  expect_all_pages_free();
}

TEST_F(EngineTest, CancelWhileWaitingTakesItFromTheQueue) {
  start({.max_sequences = 1});
  HoldingRequest running(engine(), request(5, 50));
  Completion waiting;
  std::promise<void> ended;
  const RequestId id =
      engine()
          .submit(request(5, 50),
                  [&](EngineEvent&& event) {
                    waiting.tokens.insert(waiting.tokens.end(), event.tokens.begin(), event.tokens.end());
                    if (!event.finish) return;
                    waiting.finish = *event.finish;
                    ended.set_value();
                  })
          .value();
  engine().cancel(id);
  running.release();
  ended.get_future().wait();
  EXPECT_EQ(waiting.finish, FinishReason::cancelled);
  EXPECT_THAT(waiting.tokens, IsEmpty());
  EXPECT_THAT(running.finish().tokens, SizeIs(50));
  expect_all_pages_free();
}

TEST_F(EngineTest, CancelOfAFinishedOrUnknownRequestIsNothing) {
  start();
  std::atomic<int> num_ends{0};
  std::promise<void> ended;
  const RequestId id = engine()
                           .submit(request(5, 2),
                                   [&](EngineEvent&& event) {
                                     if (event.finish && ++num_ends == 1) ended.set_value();
                                   })
                           .value();
  ended.get_future().wait();
  engine().cancel(id);
  engine().cancel(987654);
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
  EXPECT_EQ(num_ends, 1);
}

TEST_F(EngineTest, RandomRequestsAndCancelsLeaveAllPagesFree) {
  start({.num_threads = 1, .max_sequences = 8, .max_batched_tokens = 48, .kv_tokens = 400});
  std::mt19937 random(11);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  constexpr int kRequests = 200;
  std::vector<std::atomic<int>> num_ends(kRequests);
  std::atomic<int> num_ended{0};
  std::vector<RequestId> ids;
  for (int i = 0; i < kRequests; ++i) {
    EngineRequest r = request(1 + below(120), below(30));
    if (below(3) == 0) r.num_prompt_logprobs = 0;
    ids.push_back(engine()
                      .submit(std::move(r),
                              [&, i](EngineEvent&& event) {
                                if (!event.finish) return;
                                EXPECT_NE(*event.finish, FinishReason::error);
                                ++num_ends[static_cast<size_t>(i)];
                                ++num_ended;
                              })
                      .value());
    if (below(3) == 0) engine().cancel(ids[static_cast<size_t>(below(static_cast<int>(ids.size())))]);
    if (below(10) == 0) wait_for_counters([&](const EngineCounters& c) { return c.waiting < 4; });
  }
  while (num_ended < kRequests) std::this_thread::yield();
  expect_all_pages_free();
  local_->stop();
  for (const auto& n : num_ends) EXPECT_EQ(n, 1);
}

// ---- the end

TEST_F(EngineTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  start({.max_sequences = 1});
  HoldingRequest running(engine(), request(5, 20));
  auto waiting = local_->try_submit(request(5, 6));
  engine().drain();
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "the router is shutting down");
  running.release();
  EXPECT_THAT(running.finish().tokens, SizeIs(20));
  EXPECT_THAT(waiting->get().tokens, SizeIs(6));
}

TEST_F(EngineTest, DrainOfAnIdleEngineEndsIt) {
  start();
  engine().drain();
  local_->stop();
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "the router is shutting down");
}

TEST_F(EngineTest, StopEndsWhatRunsAndWhatWaits) {
  start({.max_sequences = 1});
  HoldingRequest running(engine(), request(5, 400));
  auto waiting = local_->try_submit(request(5, 6));
  engine().stop();
  for (const Completion& done : {running.finish(), waiting->get()}) {
    EXPECT_EQ(done.finish, FinishReason::error);
    ASSERT_TRUE(done.error.has_value());
    EXPECT_EQ(done.error->code, Code::unavailable);
  }
  local_->stop();
  EXPECT_FALSE(engine().serving());
}

// Nothing falls between the last look at the queue and the end.
TEST_F(EngineTest, EveryRequestThatWasAcceptedIsAnsweredThoughTheEngineStops) {
  for (int round = 0; round < 10; ++round) {
    start({.num_threads = 1});
    std::atomic<int> num_accepted{0}, num_answered{0};
    std::atomic<bool> refused{false};
    std::vector<std::thread> clients;
    for (int i = 0; i < 2; ++i)
      clients.emplace_back([&] {
        while (!refused) {
          const auto id = engine().submit(request(3, 1), [&](EngineEvent&& event) {
            if (event.finish) ++num_answered;
          });
          if (id.has_value())
            ++num_accepted;
          else if (id.error().code == Code::unavailable)
            refused = true;
        }
      });
    while (num_accepted < 5) std::this_thread::yield();
    if (round % 2 == 0) engine().drain();
    local_->stop();
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(num_answered, num_accepted);
  }
}

}  // namespace
}  // namespace guildhall
