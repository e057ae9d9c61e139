// engine_recovery_test.cc: a worker is lost in the middle of generation and comes back, or does not.
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

using EngineRecovery = EngineCrowdTest;

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

TEST_F(EngineRecovery, NewRequestsWaitWhileAWorkerIsLost) {
  start();
  local_->kill_worker(0);
  local_->wait_for_loss();
  while (engine().serving()) std::this_thread::yield();
  EXPECT_TRUE(engine().paused());
  auto waiting = local_->submit(request(5, 3));
  local_->attach_worker(0);
  EXPECT_THAT(waiting.get().tokens, SizeIs(3));
  EXPECT_FALSE(engine().paused());
}

TEST_F(EngineRecovery, NewRequestsAreRefusedOnceAWorkerIsLostForTooLong) {
  start({.recovery_timeout = std::chrono::milliseconds(50)});
  local_->kill_worker(0);
  local_->wait_for_loss();
  while (engine().serving()) std::this_thread::yield();
  auto submitted = local_->try_submit(request(5, 3));
  for (; !submitted.has_error(); submitted = local_->try_submit(request(5, 3)))
    EXPECT_EQ(submitted->get().error->code, Code::peer_lost);
  expect_refused(submitted, Code::unavailable, "waiting for its expert workers");
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
