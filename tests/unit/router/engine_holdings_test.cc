// engine_holdings_test.cc: experts that several workers hold, or that move while a crowd is served: the same
// tokens come out, and nobody waits where somebody is left who holds what is needed.
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class EngineHoldings : public EngineCrowdTest {
 protected:
  // The engine has taken it between two steps.
  void announce_and_wait(int worker, const ExpertsOfLayer& experts_l) {
    std::promise<void> taken;
    local_->announce(worker, experts_l, [&] { taken.set_value(); });
    taken.get_future().wait();
  }
  ExpertsOfLayer all_experts() const {
    ExpertsOfLayer all_l(static_cast<size_t>(local_->spec().num_layers));
    for (size_t l = 0; l < all_l.size(); ++l)
      for (int32_t e = 0; local_->spec().is_moe_layer[l] && e < local_->spec().moe.num_experts; ++e)
        all_l[l].push_back(e);
    return all_l;
  }
  // Worker `from` dies as the crowd reports its fifth token, and never comes back.
  std::vector<std::vector<int32_t>> run_crowd_that_loses(int worker) {
    return run_crowd([&] { local_->kill_worker(worker); },
                     [&] { EXPECT_EQ(local_->wait_for_loss().first, worker); });
  }
};

TEST_F(EngineHoldings, AWorkerWhoseExpertsOthersHoldMayDieAndNobodyWaits) {
  start({.num_workers = 3});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  for (const ReplicaChoice choice : {ReplicaChoice::least_loaded, ReplicaChoice::hash}) {
    local_.reset();
    start({.num_workers = 3, .num_replicas = 2, .replicas = {.choice = choice}});
    EXPECT_EQ(run_crowd(nullptr, nullptr), undisturbed);
    EXPECT_EQ(run_crowd_that_loses(1), undisturbed);
    EXPECT_TRUE(engine().serving());
    EXPECT_EQ(engine().why_not_serving(), "");
    expect_all_pages_free();
    EXPECT_EQ(engine().counters().preemptions_recompute, 0);
    local_->attach_worker(1);
    EXPECT_EQ(run_crowd(nullptr, nullptr), undisturbed);
  }
}

TEST_F(EngineHoldings, SoMayOneAmidTwoMicroBatches) {
  start({.num_workers = 2});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  local_.reset();
  start({.num_workers = 2, .num_replicas = 2, .worker_threads = true, .micro_batches = MicroBatches::two});
  EXPECT_EQ(run_crowd_that_loses(0), undisturbed);
}

TEST_F(EngineHoldings, SoMayOneThatServesSeveralRanks) {
  start({.num_workers = 2, .num_threads = 1, .num_ranks = 2});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  local_.reset();
  start({.num_workers = 2, .num_replicas = 2, .num_threads = 1, .num_ranks = 2});
  EXPECT_EQ(run_crowd_that_loses(1), undisturbed);
}

// Each move as it is in a cluster: the new replica is there before it is announced, the old one goes when the
// engine says that it is not in use. A worker refuses what it does not hold, which would end its link.
TEST_F(EngineHoldings, TheSameTokensComeOutWhileExpertsMove) {
  start({.num_workers = 3});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  std::vector<ExpertsOfLayer> held_w;
  for (int w = 0; w < 3; ++w) held_w.push_back(local_->first_experts(w));
  const auto moved = run_crowd([] {},
                               [&] {
                                 for (int i = 0; i < 12; ++i) {
                                   const int from = i % 3, to = (i + 1 + i / 3 % 2) % 3;
                                   auto &left = held_w[static_cast<size_t>(from)],
                                        &grown = held_w[static_cast<size_t>(to)];
                                   for (size_t l = 0; l < left.size(); ++l) {
                                     if (left[l].empty()) continue;
                                     const int32_t expert = left[l][static_cast<size_t>(i) % left[l].size()];
                                     grown[l].insert(std::ranges::lower_bound(grown[l], expert), expert);
                                     std::erase(left[l], expert);
                                   }
                                   local_->load_worker(to, grown);
                                   announce_and_wait(to, grown);
                                   announce_and_wait(from, left);
                                   local_->load_worker(from, left);
                                 }
                               });
  EXPECT_EQ(moved, undisturbed);
  EXPECT_EQ(run_crowd(nullptr, nullptr), undisturbed);
  EXPECT_EQ(engine().counters().preemptions_recompute, 0);  // no link ended
}

TEST_F(EngineHoldings, AnExpertThatNobodyElseHoldsIsNotLetGoUntilOneDoes) {
  start({.num_workers = 2});
  const auto alone = local_->run(request(40, 10)).tokens;
  std::atomic<bool> taken{false};
  const ExpertsOfLayer none(all_experts().size());
  local_->announce(0, none, [&] { taken = true; });
  EXPECT_EQ(local_->run(request(40, 10)).tokens, alone);
  EXPECT_TRUE(engine().serving());
  EXPECT_FALSE(taken);
  local_->load_worker(1, all_experts());
  announce_and_wait(1, all_experts());
  while (!taken) std::this_thread::yield();
  local_->load_worker(0, none);
  EXPECT_EQ(local_->run(request(40, 10)).tokens, alone);
}

TEST_F(EngineHoldings, AnEngineThatWaitsGoesOnWhenAnotherWorkerHoldsWhatWasLost) {
  start({.num_workers = 2});
  const auto undisturbed = run_crowd(nullptr, nullptr);
  const auto disturbed = run_crowd([&] { local_->kill_worker(1); },
                                   [&] {
                                     local_->wait_for_loss();
                                     while (engine().serving()) std::this_thread::yield();
                                     EXPECT_THAT(engine().why_not_serving(), HasSubstr("is held by nobody"));
                                     local_->load_worker(0, all_experts());
                                     announce_and_wait(0, all_experts());
                                   });
  EXPECT_EQ(disturbed, undisturbed);
  EXPECT_EQ(engine().why_not_serving(), "");
}

TEST_F(EngineHoldings, AtFirstEveryWorkerMustBeThere) {
  start({.num_workers = 2, .num_replicas = 2, .attach_workers = false});
  local_->attach_worker(0);
  // What was asked of the engine before this is done when it answers.
  for (int i = 0; i < 2; ++i) EXPECT_EQ(engine().audit(), "");
  EXPECT_FALSE(engine().serving());
  expect_refused(local_->try_submit(request(5, 3)), Code::unavailable, "waiting for its expert workers");
  local_->attach_worker(1);
  while (!engine().serving()) std::this_thread::yield();
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
}

TEST_F(EngineHoldings, AnAnnouncementOfAnEarlierLinkIsNothing) {
  start();
  engine().set_holdings(0, /*generation=*/4711, {9, ExpertsOfLayer(all_experts().size())},
                        [] { ADD_FAILURE() << "taken"; });
  EXPECT_THAT(local_->run(request(5, 3)).tokens, SizeIs(3));
  EXPECT_TRUE(engine().serving());
}

}  // namespace
}  // namespace guildhall
