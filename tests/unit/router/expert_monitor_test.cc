// expert_monitor_test.cc: what follows from loads, holdings and the workers' own sums.
#include "router/expert_monitor.h"

#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ExpertMonitorTest : public ::testing::Test {
 protected:
  ExpertMonitorTest() : monitor_(options()), step_(monitor_.recorder()) {
    views_ = {{.name = "w0", .state = "ready", .experts_l = {{}, {0, 1, 2, 3}, {0, 1, 2, 3}, {}}},
              {.name = "w1", .state = "ready", .experts_l = {{}, {3, 4, 5, 6, 7}, {4, 5, 6, 7}, {}}}};
  }
  ExpertMonitorOptions options() {
    return {.router = "r0",
            .routing = routing_fixture_options(),
            .speed_w = {1, 2},
            .expected = {.pair_ns = 1, .activation_ns = 100},
            .workers = [this] { return views_; }};
  }
  // A step with so many pairs for each worker in layer 1.
  void step(size_t pairs_of_w0, size_t pairs_of_w1) {
    const Chunks chunks = std::move(Chunks().decode());
    step_.begin(chunks.list());
    DispatchRound round{.layer = 1, .share_w = std::vector<DispatchRound::Share>(2)};
    round.share_w[0].pairs.resize(pairs_of_w0);
    round.share_w[1].pairs.resize(pairs_of_w1);
    for (const int32_t worker : {0, 1}) step_.sent(round, worker, 10);
    step_.count(1, 0, ChoiceRows{0, 3});
    step_.commit();
  }
  void worker_has_done(size_t worker, const WorkSums& sums) {
    views_[worker].own = WorkerView::Own{.runs = 1, .weight_bytes = 2, .sums = sums};
  }

  std::vector<WorkerView> views_;
  ExpertMonitor monitor_;
  StepRouting step_;
};

TEST_F(ExpertMonitorTest, ALayerIsBalancedWhenWorkersHavePairsByTheirSpeed) {
  EXPECT_EQ(monitor_.report().balancedness(1), 1) << "nothing was sent";
  step(3, 6);
  EXPECT_THAT(monitor_.report().balancedness(1), DoubleNear(1, 1e-12));
  step(3, 0);
  EXPECT_THAT(monitor_.report().balancedness(1), DoubleNear(12 / 3.0 / 6, 1e-12));
  EXPECT_EQ(monitor_.report().balancedness(2), 1);
}

TEST_F(ExpertMonitorTest, TheHottestExpertIsComparedWithTheMean) {
  EXPECT_EQ(monitor_.report().hottest_ratio(1), 1);
  step(1, 1);
  EXPECT_THAT(monitor_.report().hottest_ratio(1), DoubleNear(4, 1e-12)) << "two of eight have all";
}

TEST_F(ExpertMonitorTest, ExpertsAreWhereWorkersHoldThem) {
  const auto workers_e = monitor_.report().workers_of_experts(1);
  EXPECT_THAT(workers_e, ElementsAre(ElementsAre(0), ElementsAre(0), ElementsAre(0), ElementsAre(0, 1),
                                     ElementsAre(1), ElementsAre(1), ElementsAre(1), ElementsAre(1)));
  EXPECT_THAT(monitor_.report().workers_of_experts(0)[0], IsEmpty());
}

TEST_F(ExpertMonitorTest, TimeIsAttributedByMeasuredCosts) {
  EXPECT_FALSE(monitor_.costs());
  const ExpertLoad load{.decode_tokens = 50, .active_steps = 10};
  EXPECT_FALSE(monitor_.report().attributed_ns(load, std::vector<int32_t>{0}));
  for (int64_t i = 0; i < 50; ++i) {
    const int64_t pairs = i * 1000 + i * i * 10, activations = i * 100;
    worker_has_done(
        0, {.pairs = pairs, .activations = activations, .compute_ns = 200 * pairs + 3000 * activations});
    monitor_.sample();
  }
  const ExpertsReport report = monitor_.report();
  EXPECT_THAT(report.workers[0].costs->pair_ns, DoubleNear(200, 4));
  EXPECT_FALSE(report.workers[1].costs);
  EXPECT_THAT(*report.attributed_ns(load, std::vector<int32_t>{0}), DoubleNear(50 * 200 + 10 * 3000, 800));
  // Of two replicas each has half the tokens, and is touched nearly as often as one alone.
  EXPECT_THAT(*report.attributed_ns(load, std::vector<int32_t>{0, 1}),
              DoubleNear(50 * 200 + 2 * active_share(10, 50, 2) * 3000, 1600));
  EXPECT_FALSE(report.attributed_ns(load, std::vector<int32_t>{1}));
  EXPECT_THAT(monitor_.costs()->pair_ns, DoubleNear(200, 4)) << "w0's speed is 1";
}

TEST_F(ExpertMonitorTest, RoutersAreSummed) {
  step(3, 6);
  ExpertsReport report = monitor_.report();
  RouterLoads other = monitor_.loads();
  other.router = "r1";
  other.window_s = 1e6;
  report.add(other);
  EXPECT_THAT(report.routers, ElementsAre("r0", "r1"));
  EXPECT_EQ(report.loads.num_steps, 2);
  EXPECT_EQ(report.loads.load_le[1][0].decode_tokens, 2);
  EXPECT_EQ(report.worker_traffic(1).pairs, 12);
  EXPECT_EQ(report.worker_traffic(1).bytes_sent, 20);
  EXPECT_EQ(report.window_s, 1e6);
}

}  // namespace
}  // namespace guildhall
