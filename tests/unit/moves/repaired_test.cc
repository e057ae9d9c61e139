// repaired_test.cc: the balancer over a real cluster: it replicates what is hot while tokens come, and when a
// worker is gone for good, the others load what it held, and requests that waited go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "model/weights.h"
#include "tests/unit/moves/moving_cluster.h"

namespace guildhall {
namespace {

class RealCluster final : public BalancedCluster {
 public:
  explicit RealCluster(Cluster& cluster) : cluster_(cluster) {}

  std::vector<BalancedWorker> workers() const override {
    std::vector<BalancedWorker> workers;
    const std::vector<WorkerStatus> status = cluster_.status();
    for (const WorkerHoldings& holdings : cluster_.holdings()) {
      const bool loading = !holdings.ready && status[workers.size()].state == "loading";
      workers.push_back({holdings.ready, loading, holdings.experts_l});
    }
    return workers;
  }
  Loads window() const override { return loads_; }
  ServedSteps served() const override { return {.counted = loads_.num_steps}; }
  std::optional<StepCosts> costs() const override { return std::nullopt; }
  void add_experts(MoveRequest request, MoveDone done) override {
    cluster_.add_experts(std::move(request), std::move(done));
  }
  void drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) override {
    cluster_.drop_experts(worker, std::move(experts_l), std::move(done));
  }

  Loads loads_;

 private:
  Cluster& cluster_;
};

EngineRequest request(uint64_t seed) {
  EngineRequest request;
  request.prompt_ids = {5, 9, 2, 77, static_cast<int32_t>(31 + seed)};
  request.sampling.temperature = 0.8F;
  request.seed = seed;
  request.max_tokens = 64;
  return request;
}

class BalancedMoves : public testing::Test {
 protected:
  BalancedMoves() {
    EXPECT_TRUE(MovingCluster::await([&] { return cluster_.all_ready(); }));
    for (uint64_t seed = 0; seed < 3; ++seed)
      expected_.push_back(cluster_.submit(request(seed)).get().tokens);
  }
  ~BalancedMoves() override {
    cluster_.router_io().run([&] { balancer_.reset(); });
  }

  void balance(BalancerOptions options) {
    BalancedModel model{.experts = expert_grid(cluster_.spec()),
                        .expert_bytes = expert_bytes(cluster_.spec()),
                        .assumed_costs = {.pair_ns = 1000}};
    for (int w = 0; w < cluster_.num_workers(); ++w)
      model.workers.push_back({.name = "w" + std::to_string(w), .node = "n" + std::to_string(w)});
    cluster_.router_io().run([&] { balancer_.emplace(real_, model, options, now_); });
    tick(std::chrono::seconds(0));
  }
  void tick(std::chrono::nanoseconds time) {
    now_ += time;
    cluster_.router_io().run([&] { balancer_->tick(now_); });
  }
  bool ticks_until(const std::function<bool()>& condition) {
    return MovingCluster::await([&] {
      tick(std::chrono::milliseconds(1));
      return condition();
    });
  }
  void expect_texts() {
    std::vector<std::future<Completion>> all;
    for (uint64_t seed = 0; seed < 3; ++seed) all.push_back(cluster_.submit(request(seed)));
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].get().tokens, expected_[i]);
  }

  MovingCluster cluster_{read_golden_case(std::string("qwen3_moe_f32")).path, 3};
  RealCluster real_{cluster_.cluster()};
  Clock::time_point now_ = Clock::now();
  std::optional<Balancer> balancer_;
  std::vector<std::vector<int32_t>> expected_;
};

TEST_F(BalancedMoves, HotExpertsAreReplicatedWhileTokensCome) {
  const ModelSpec& spec = cluster_.spec();
  Loads loads{.num_steps = 100};
  for (const bool is_moe : spec.is_moe_layer) {
    loads.load_le.emplace_back();
    for (int64_t e = 0; is_moe && e < spec.moe.num_experts; ++e)
      loads.load_le.back().push_back({.decode_tokens = e < 2 ? 5000 : 100, .active_steps = 100});
  }
  real_.loads_ = loads;
  std::vector<std::future<Completion>> under_way;
  for (uint64_t seed = 0; seed < 3; ++seed) under_way.push_back(cluster_.submit(request(seed)));
  balance({.policy = Policy::eplb,
           .redundant_experts = 6,
           .window_steps = 100,
           .gate = {.move_bytes_per_s = 1e9}});
  tick(std::chrono::seconds(30));
  ASSERT_TRUE(
      ticks_until([&] { return balancer_->status().history.at(0).outcome == DecisionOutcome::moved; }));
  for (size_t i = 0; i < under_way.size(); ++i) EXPECT_EQ(under_way[i].get().tokens, expected_[i]);
  EXPECT_EQ(cluster_.not_covered(), "");
  EXPECT_GT(balancer_->status().added_experts, 0);
  expect_texts();
}

TEST_F(BalancedMoves, WhatAWorkerHeldThatIsGoneForGoodIsLoadedByTheOthers) {
  balance({});
  std::vector<std::future<Completion>> under_way;
  for (uint64_t seed = 0; seed < 3; ++seed) under_way.push_back(cluster_.submit(request(seed)));
  cluster_.kill_worker(1);
  // The loss itself is noticed a little later.
  ASSERT_TRUE(ticks_until(
      [&] { return balancer_->status().repaired_experts > 0 && cluster_.not_covered().empty(); }));
  for (size_t i = 0; i < under_way.size(); ++i) {
    const Completion completion = under_way[i].get();
    EXPECT_EQ(completion.tokens, expected_[i]) << (completion.error ? completion.error->message : "");
  }
  EXPECT_GT(balancer_->status().repaired_experts, 0);

  cluster_.start_worker(1);  // after all: what is held twice goes
  ASSERT_TRUE(ticks_until([&] { return cluster_.all_ready(); }));
  tick(std::chrono::seconds(30));
  const int64_t once = 9 * std::ranges::count(cluster_.spec().is_moe_layer, true);
  const auto held = [&] {
    int64_t num = 0;
    for (const WorkerHoldings& worker : cluster_.cluster().holdings()) num += count_experts(worker.experts_l);
    return num;
  };
  EXPECT_TRUE(ticks_until([&] { return held() == once; })) << held();
  EXPECT_EQ(cluster_.not_covered(), "");
  expect_texts();
}

}  // namespace
}  // namespace guildhall
