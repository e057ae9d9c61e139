#include "tests/unit/balancer/fake_cluster.h"

#include <algorithm>
#include <set>

namespace guildhall {
namespace {

void remove(ExpertsOfLayer& from, const ExpertsOfLayer& what) {
  for (size_t l = 0; l < what.size(); ++l)
    for (const int32_t e : what[l]) std::erase(from[l], e);
}

void insert(ExpertsOfLayer& into, const ExpertsOfLayer& what) {
  for (size_t l = 0; l < what.size(); ++l)
    for (const int32_t e : what[l])
      if (std::ranges::find(into[l], e) == into[l].end())
        into[l].insert(std::ranges::upper_bound(into[l], e), e);
}

int64_t count(const ExpertsOfLayer& experts_l) {
  int64_t num = 0;
  for (const auto& experts : experts_l) num += static_cast<int64_t>(experts.size());
  return num;
}

}  // namespace

void FakeCluster::add_experts(MoveRequest request, MoveDone done) {
  pending_.push_back({true, std::move(request), std::move(done)});
}

void FakeCluster::drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) {
  remove(workers_[static_cast<size_t>(worker)].experts_l, experts_l);
  pending_.push_back({false, {.worker = worker, .experts_l = std::move(experts_l)}, std::move(done)});
}

void FakeCluster::end_one() {
  Pending one = std::move(pending_.front());
  pending_.pop_front();
  if (one.is_add) insert(workers_[static_cast<size_t>(one.request.worker)].experts_l, one.request.experts_l);
  one.done({.bytes = one.is_add ? count(one.request.experts_l) * kExpertBytes : 0});
}

void FakeCluster::fail_one(const Status& why) {
  Pending one = std::move(pending_.front());
  pending_.pop_front();
  one.done({.result = why});
}

BalancerTest::BalancerTest() {
  for (int32_t w = 0; w < 4; ++w) {
    cluster_.workers_.push_back({.ready = true, .experts_l = {{2 * w, 2 * w + 1}}});
    model_.workers.push_back({.name = "w" + std::to_string(w), .node = "n" + std::to_string(w)});
  }
  model_.experts = {{true}, 8};
  model_.expert_bytes = kExpertBytes;
  model_.assumed_costs = {.pair_ns = 1000};
  options_ = {.policy = Policy::eplb,
              .redundant_experts = 4,
              .window_steps = 80,
              .interval = std::chrono::seconds(30),
              .gate = {.move_bytes_per_s = 1e6}};
  cluster_.loads_.num_steps = 80;
  cluster_.loads_.load_le.resize(1);
  for (int64_t e = 0; e < 8; ++e)
    cluster_.loads_.load_le[0].push_back({.decode_tokens = e < 2 ? 800 : 80, .active_steps = 80});
}

Balancer& BalancerTest::balancer() {
  if (!balancer_) {
    balancer_.emplace(cluster_, model_, options_, now_);
    balancer_->tick(now_);
  }
  return *balancer_;
}

void BalancerTest::serve(int64_t num_steps) {
  cluster_.served_.counted += num_steps;
  cluster_.served_.steps += num_steps;
  cluster_.served_.wait_ns += num_steps * 1'000'000;
}

void BalancerTest::pass(std::chrono::nanoseconds time) {
  balancer();
  now_ += time;
  balancer().tick(now_);
}

int BalancerTest::end_all() {
  int num = 0;
  for (; !cluster_.pending_.empty(); ++num) {
    EXPECT_LT(num, 1000);
    cluster_.end_one();
    EXPECT_TRUE(everything_held());
    balancer().tick(now_);
  }
  return num;
}

std::string BalancerTest::alarms() {
  std::string names;
  for (const RaisedAlarm& raised : status().alarms)
    names += (names.empty() ? "" : ",") + std::string(kBalanceAlarmNames[static_cast<size_t>(raised.alarm)]);
  return names;
}

int64_t BalancerTest::held() const {
  int64_t num = 0;
  for (const BalancedWorker& worker : cluster_.workers_)
    if (worker.ready) num += count(worker.experts_l);
  return num;
}

bool BalancerTest::everything_held() const {
  std::set<int32_t> all;
  for (const BalancedWorker& worker : cluster_.workers_)
    if (worker.ready) all.insert(worker.experts_l[0].begin(), worker.experts_l[0].end());
  return all.size() == 8;
}

void BalancerTest::lose(size_t worker) {
  cluster_.workers_[worker].ready = false;
  std::deque<FakeCluster::Pending> rest;
  for (FakeCluster::Pending& one : std::exchange(cluster_.pending_, {})) {
    if (one.request.worker == static_cast<int32_t>(worker))
      one.done({.result = Status{Code::peer_lost, "it is gone"}});
    else
      rest.push_back(std::move(one));
  }
  cluster_.pending_ = std::move(rest);
}

void BalancerTest::come_back(size_t worker) { cluster_.workers_[worker].ready = true; }

}  // namespace guildhall
