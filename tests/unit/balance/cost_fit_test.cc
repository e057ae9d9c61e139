// cost_fit_test.cc: a worker's costs out of what its sums grew by, also where that says little.
#include "router/balance/cost_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace guildhall {
namespace {

using ::testing::DoubleNear;

constexpr StepCosts kExpected{.pair_ns = 10, .activation_ns = 1000};

struct Work {
  int64_t pairs, activations;
};

// A worker that takes `costs` for what it is given, give or take `noise` of it.
class FakeWorker {
 public:
  FakeWorker(StepCosts costs, double noise) : costs_(costs), noise_(noise) {}
  const WorkSums& work(const Work& work) {
    const double ns = static_cast<double>(work.pairs) * costs_.pair_ns +
                      static_cast<double>(work.activations) * costs_.activation_ns;
    sums_.pairs += work.pairs, sums_.activations += work.activations;
    sums_.compute_ns += std::llround(ns * (1 + noise_ * normal_(random_)));
    return sums_;
  }
  void restart() { sums_ = {}; }

 private:
  const StepCosts costs_;
  const double noise_;
  WorkSums sums_;
  std::mt19937_64 random_{7};
  std::normal_distribution<double> normal_;
};

// Between decode steps of few pairs and prompts of many.
Work mixed(int64_t i) { return {.pairs = 2000 + 5000 * (i % 7), .activations = 1000 + 100 * (i % 3)}; }

TEST(CostFit, FindsTheCostsOfAWorkerWhoseWorkVaries) {
  CostFit fit(kExpected);
  FakeWorker worker({.pair_ns = 250, .activation_ns = 4000}, 0);
  for (int64_t i = 0; i < 100; ++i) fit.add(worker.work(mixed(i)));
  EXPECT_THAT(fit.costs()->pair_ns, DoubleNear(250, 5));
  EXPECT_THAT(fit.costs()->activation_ns, DoubleNear(4000, 80));
}

TEST(CostFit, NoiseDoesNotUpsetIt) {
  CostFit fit(kExpected);
  FakeWorker worker({.pair_ns = 250, .activation_ns = 4000}, 0.05);
  for (int64_t i = 0; i < 300; ++i) fit.add(worker.work(mixed(i)));
  EXPECT_THAT(fit.costs()->pair_ns, DoubleNear(250, 50));
  EXPECT_THAT(fit.costs()->activation_ns, DoubleNear(4000, 800));
}

TEST(CostFit, BeforeAnyWorkThereAreNone) {
  CostFit fit(kExpected);
  EXPECT_FALSE(fit.costs());
  fit.add({.pairs = 5, .activations = 2, .compute_ns = 100});  // what was before we looked
  EXPECT_FALSE(fit.costs());
  fit.add({.pairs = 5, .activations = 2, .compute_ns = 100});  // idle
  EXPECT_FALSE(fit.costs());
}

// One batch size only: the sum is right, and is divided as expected.
TEST(CostFit, WorkOfOneKindIsDividedAsExpected) {
  CostFit fit(kExpected);
  FakeWorker worker({.pair_ns = 40, .activation_ns = 2000}, 0);
  for (int64_t i = 0; i < 50; ++i) fit.add(worker.work({.pairs = 8000, .activations = 1000}));
  const StepCosts costs = *fit.costs();
  const double total = 8000 * 40 + 1000 * 2000.0;
  EXPECT_THAT(8000 * costs.pair_ns + 1000 * costs.activation_ns, DoubleNear(total, total / 100));
  EXPECT_THAT(costs.activation_ns / costs.pair_ns, DoubleNear(100, 1));
}

TEST(CostFit, OneLookIsEnoughForASum) {
  CostFit fit(kExpected);
  fit.add({});
  fit.add({.pairs = 100, .activations = 10, .compute_ns = 33'000});
  EXPECT_THAT(fit.costs()->pair_ns, DoubleNear(30, 0.1));
  EXPECT_THAT(fit.costs()->activation_ns, DoubleNear(3000, 10));
}

// Reading costs nothing beside computing, or the other way round: no cost is negative.
TEST(CostFit, NothingIsNegative) {
  for (const StepCosts costs : {StepCosts{.pair_ns = 500}, StepCosts{.activation_ns = 5000}}) {
    CostFit fit(kExpected);
    FakeWorker worker(costs, 0.1);
    for (int64_t i = 0; i < 100; ++i) {
      fit.add(worker.work(mixed(i)));
      if (!fit.costs()) continue;
      EXPECT_GE(fit.costs()->pair_ns, 0);
      EXPECT_GE(fit.costs()->activation_ns, 0);
      EXPECT_GT(fit.costs()->pair_ns + fit.costs()->activation_ns, 0);
    }
  }
}

TEST(CostFit, FollowsAWorkerThatBecomesSlower) {
  CostFit fit(kExpected);
  FakeWorker fast({.pair_ns = 250, .activation_ns = 4000}, 0),
      slow({.pair_ns = 500, .activation_ns = 8000}, 0);
  for (int64_t i = 0; i < 500; ++i) fit.add(fast.work(mixed(i)));
  for (int64_t i = 0; i < 700; ++i) fit.add(slow.work(mixed(i)));  // and is a new process
  EXPECT_THAT(fit.costs()->pair_ns, DoubleNear(500, 20));
  EXPECT_THAT(fit.costs()->activation_ns, DoubleNear(8000, 300));
}

TEST(CostFit, AProcessThatStartsAnewIsNotTakenForWork) {
  CostFit fit(kExpected);
  FakeWorker worker({.pair_ns = 250, .activation_ns = 4000}, 0);
  for (int64_t i = 0; i < 100; ++i) {
    if (i % 10 == 9) worker.restart();
    fit.add(worker.work(mixed(i)));
  }
  EXPECT_THAT(fit.costs()->pair_ns, DoubleNear(250, 5));
  EXPECT_THAT(fit.costs()->activation_ns, DoubleNear(4000, 80));
}

}  // namespace
}  // namespace guildhall
