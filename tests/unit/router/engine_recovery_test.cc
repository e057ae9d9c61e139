// engine_recovery_test.cc: a worker is lost in the middle of generation and comes back, or does not.
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

class EngineRecovery : public EngineTest {
 protected:
  // Runs a crowd, with `fault` struck as the first of them reports its fifth token, and `repair` after the
  // engine has noticed.
  std::vector<std::vector<int32_t>> run_crowd(const std::function<void()>& fault,
                                              const std::function<void()>& repair) {
    std::atomic<bool> struck{fault == nullptr};
    std::vector<std::vector<int32_t>> tokens(6);
    std::atomic<size_t> num_ended{0};
    for (size_t i = 0; i < tokens.size(); ++i) {
      EngineRequest r = request(10 + 20 * static_cast<int64_t>(i), 25);
      r.sampling = {.temperature = 0.8f};
      r.seed = i;
      EXPECT_TRUE(engine().submit(std::move(r), [&, i](EngineEvent&& event) {
        tokens[i].insert(tokens[i].end(), event.tokens.begin(), event.tokens.end());
        if (tokens[i].size() == 5 && !struck.exchange(true)) fault();
        if (!event.finish) return;
        EXPECT_EQ(*event.finish, FinishReason::length);
        ++num_ended;
      }));
    }
    if (repair) repair();
    while (num_ended < tokens.size()) std::this_thread::yield();
    return tokens;
  }
};

TEST_F(EngineRecovery, TheSameTokensComeOutThoughAWorkerDiedAndCameBack) {
  start({.num_workers = 3});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  const auto disturbed = run_crowd([&] { local_->kill_worker(1); },
                                   [&] {
                                     const auto [worker, why] = local_->wait_for_loss();
                                     EXPECT_EQ(worker, 1);
                                     EXPECT_THAT(why.message, StartsWith("worker=w1: "));
                                     local_->attach_worker(1);
                                   });
  EXPECT_EQ(disturbed, undisturbed);
  expect_all_pages_free();
}

TEST_F(EngineRecovery, TheSameTokensComeOutThoughAnAnswerWasLost) {
  start({.num_workers = 2, .deadline = std::chrono::seconds(2)});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  const auto disturbed = run_crowd([&] { local_->fabric().set_faults("w0", "router", {.loss = 1}); },
                                   [&] {
                                     const auto [worker, why] = local_->wait_for_loss();
                                     EXPECT_EQ(worker, 0);
                                     EXPECT_EQ(why.code, Code::deadline_exceeded);
                                     local_->fabric().set_faults("w0", "router", {});
                                     local_->attach_worker(0);
                                   });
  EXPECT_EQ(disturbed, undisturbed);
}

// The answers to one micro-batch are lost while the other's are under way.
TEST_F(EngineRecovery, TheSameTokensComeOutOfTwoMicroBatchesThoughAnAnswerWasLost) {
  start({.num_workers = 2});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  local_.reset();
  start({.num_workers = 2,
         .worker_threads = true,
         .micro_batches = MicroBatches::two,
         .deadline = std::chrono::seconds(4)});
  const auto disturbed = run_crowd([&] { local_->fabric().set_faults("w0", "router", {.loss = 0.5}); },
                                   [&] {
                                     EXPECT_EQ(local_->wait_for_loss().first, 0);
                                     local_->fabric().set_faults("w0", "router", {});
                                     local_->attach_worker(0);
                                   });
  EXPECT_EQ(disturbed, undisturbed);
  EXPECT_GT(engine().counters().steps_by_micro_batches[1], 0);
}

// The other ranks wait for the first one's sum, which will not come.
TEST_F(EngineRecovery, RanksAreReleasedWhenAWorkerDiesAndTheSameTokensComeOut) {
  start({.num_workers = 3, .num_threads = 1, .num_ranks = 3});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  const auto disturbed = run_crowd([&] { local_->kill_worker(1); },
                                   [&] {
                                     EXPECT_EQ(local_->wait_for_loss().first, 1);
                                     local_->attach_worker(1);
                                   });
  EXPECT_EQ(disturbed, undisturbed);
  expect_all_pages_free();
}

TEST_F(EngineRecovery, StopEndsRanksWhileAWorkerIsLost) {
  start({.num_threads = 1, .num_ranks = 2});
  HoldingRequest running(engine(), request(5, 400));
  local_->kill_worker(1);
  running.release();
  local_->wait_for_loss();
  local_->stop();
  EXPECT_EQ(running.finish().error->code, Code::unavailable);
  local_.reset();  // joins the ranks' threads
}

TEST_F(EngineRecovery, NewRequestsAreRefusedWhileAWorkerIsLost) {
  start();
  local_->kill_worker(0);
  local_->wait_for_loss();
  while (engine().serving()) std::this_thread::yield();
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "waiting for its expert workers");
  local_->attach_worker(0);
  while (!engine().serving()) std::this_thread::yield();
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
}

TEST_F(EngineRecovery, RequestsFailWhenTheWorkerIsNotBackInTime) {
  start({.max_sequences = 1, .recovery_timeout = std::chrono::milliseconds(50)});
  HoldingRequest running(engine(), request(5, 400));
  auto waiting = local_->try_submit(request(5, 6));
  local_->kill_worker(1);
  for (const Completion& done : {running.finish(), waiting->get()}) {
    EXPECT_EQ(done.finish, FinishReason::error);
    ASSERT_TRUE(done.error.has_value());
    EXPECT_EQ(done.error->code, Code::peer_lost);
    EXPECT_THAT(done.error->message, HasSubstr("not back within 50 ms"));
  }
  expect_all_pages_free();
  local_->attach_worker(1);
  while (!engine().serving()) std::this_thread::yield();
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
}

TEST_F(EngineRecovery, ARequestCanBeCancelledWhileTheEngineWaits) {
  start();
  HoldingRequest running(engine(), request(100, 400));
  local_->kill_worker(1);
  running.release();
  local_->wait_for_loss();
  engine().cancel(running.id);
  EXPECT_EQ(running.finish().finish, FinishReason::cancelled);
  expect_all_pages_free();
}

TEST_F(EngineRecovery, StopEndsRequestsThatWaitForAWorker) {
  start();
  HoldingRequest running(engine(), request(5, 400));
  local_->kill_worker(1);
  running.release();
  local_->wait_for_loss();
  local_->stop();
  EXPECT_EQ(running.finish().error->code, Code::unavailable);
}

}  // namespace
}  // namespace guildhall
