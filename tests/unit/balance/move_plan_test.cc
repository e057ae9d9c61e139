// move_plan_test.cc: what move_plan.h promises, at every point of thousands of random courses of events:
// moves end in any order, some fail, workers are lost and come back.
#include "router/balance/move_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

namespace guildhall {
namespace {

constexpr int kInstances = 3000;

std::vector<ExpertId> experts_of(const ExpertMove& move) {
  std::vector<ExpertId> all;
  for (size_t layer = 0; layer < move.experts_l.size(); ++layer)
    for (const int32_t e : move.experts_l[layer]) all.push_back({static_cast<int32_t>(layer), e});
  return all;
}

// Workers that do what they are told, in any order.
class Course {
 public:
  explicit Course(uint64_t seed) : random_(seed) {
    const int64_t num_layers = between(1, 3), num_experts = between(1, 12);
    num_workers_ = static_cast<int32_t>(between(1, 6));
    for (int64_t l = 0; l < num_layers; ++l) grid_.is_moe_layer.push_back(l == 0 || between(0, 3) > 0);
    grid_.num_experts = num_experts;
    held_.emplace(grid_, num_workers_), target_.emplace(grid_, num_workers_);
    for (HeldExperts* table : {&*held_, &*target_})
      table->for_each_expert([&](ExpertId id) {
        table->put(any_worker(), id);
        while (between(0, 2) == 0) table->put(any_worker(), id);
      });
    limits_.batch = between(1, 5);
    for (int32_t w = 0; w < num_workers_; ++w) {
      const int64_t least = std::max(held_->total(w), target_->total(w) + 1);
      limits_.most_experts_w.push_back(least + (between(0, 1) ? 0 : between(0, 6)));
    }
    from_.emplace(*held_);
  }

  // One event. False: nothing is under way and nothing begins.
  bool step(int64_t failures_of_100) {
    for (ExpertMove& move : next_moves(*held_, *target_, under_way_, limits_)) begin(std::move(move));
    if (under_way_.empty()) return false;
    const auto at = static_cast<size_t>(between(0, static_cast<int64_t>(under_way_.size()) - 1));
    const ExpertMove move = under_way_[at];
    under_way_.erase(under_way_.begin() + static_cast<std::ptrdiff_t>(at));
    const bool is_add = move.kind == ExpertMove::Kind::add;
    for (const ExpertId id : experts_of(move)) {
      if (!is_add)
        --resident_w(move.worker);
      else if (between(0, 99) < failures_of_100)
        --resident_w(move.worker);
      else
        held_->put(move.worker, id);
    }
    check();
    return true;
  }

  void check() const {
    held_->for_each_expert([&](ExpertId id) {
      const int32_t least = std::min(from_->replicas(id), target_->replicas(id));
      ASSERT_GE(held_->replicas(id), least) << "layer " << id.layer << " expert " << id.expert;
    });
    for (int32_t w = 0; w < num_workers_; ++w)
      ASSERT_LE(resident_[static_cast<size_t>(w)], limits_.most_experts_w[static_cast<size_t>(w)]);
  }

  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  int32_t any_worker() { return static_cast<int32_t>(between(0, num_workers_ - 1)); }
  int64_t& resident_w(int32_t w) {
    if (resident_.empty())
      for (int32_t i = 0; i < num_workers_; ++i) resident_.push_back(from_->total(i));
    return resident_[static_cast<size_t>(w)];
  }

  void begin(ExpertMove move) {
    ASSERT_GT(move.num_experts, 0);
    ASSERT_LE(move.num_experts, limits_.batch);
    for (const ExpertMove& other : under_way_) {
      ASSERT_NE(other.worker, move.worker) << "one at a time";
      ASSERT_FALSE(move.from_worker == other.worker && other.from_worker == move.worker) << "each other's";
    }
    for (const ExpertId id : experts_of(move)) {
      if (move.kind == ExpertMove::Kind::add) {
        ASSERT_FALSE(held_->has(move.worker, id));
        ASSERT_EQ(move.from_worker.has_value(), held_->replicas(id) > 0);
        if (move.from_worker) {
          ASSERT_TRUE(held_->has(*move.from_worker, id));
        }
        ++resident_w(move.worker);
      } else {
        ASSERT_TRUE(held_->has(move.worker, id));
        for (const ExpertMove& other : under_way_) {
          if (other.from_worker != move.worker) continue;
          for (const ExpertId sent : experts_of(other)) ASSERT_FALSE(sent == id) << "it is being sent";
        }
        held_->take(move.worker, id);  // announced at once, and freed at the end
      }
    }
    under_way_.push_back(std::move(move));
    check();
  }

  void lose(int32_t w) {
    std::erase_if(under_way_, [&](const ExpertMove& move) { return move.worker == w; });
    held_->for_each_expert([&](ExpertId id) { held_->take(w, id), target_->take(w, id); });
    resident_w(w) = 0;
  }

  std::mt19937_64 random_;
  int32_t num_workers_ = 0;
  ExpertGrid grid_;
  std::optional<HeldExperts> from_, held_, target_;
  MoveLimits limits_;
  std::vector<int64_t> resident_;
  std::vector<ExpertMove> under_way_;
};

TEST(MovePlan, ReachesTheTargetWithoutEverHavingTooFewReplicasOrTooFullAWorker) {
  for (int i = 0; i < kInstances; ++i) {
    SCOPED_TRACE(testing::Message() << "instance " << i);
    Course course(static_cast<uint64_t>(i) + 1);
    course.resident_w(0);
    for (int steps = 0; course.step(0); ++steps) ASSERT_LT(steps, 10'000);
    ASSERT_FALSE(testing::Test::HasFatalFailure());
    ASSERT_TRUE(*course.held_ == *course.target_);
  }
}

TEST(MovePlan, FailuresCostTimeOnly) {
  for (int i = 0; i < kInstances; ++i) {
    SCOPED_TRACE(testing::Message() << "instance " << i);
    Course course(static_cast<uint64_t>(i) + 100'000);
    course.resident_w(0);
    for (int steps = 0; course.step(30); ++steps) ASSERT_LT(steps, 100'000);
    ASSERT_FALSE(testing::Test::HasFatalFailure());
    ASSERT_TRUE(*course.held_ == *course.target_);
  }
}

TEST(MovePlan, AnExpertWithTwoReplicasBeforeAndAfterOutlivesAnyOneWorkerAtAnyTime) {
  for (int i = 0; i < kInstances; ++i) {
    SCOPED_TRACE(testing::Message() << "instance " << i);
    Course course(static_cast<uint64_t>(i) + 200'000);
    course.resident_w(0);
    const int64_t when = course.between(0, 20);
    for (int64_t steps = 0; steps < when && course.step(0); ++steps) {
    }
    const int32_t lost = course.any_worker();
    const HeldExperts target = *course.target_;
    course.lose(lost);
    course.held_->for_each_expert([&](ExpertId id) {
      if (course.from_->replicas(id) >= 2 && target.replicas(id) >= 2) {
        EXPECT_GE(course.held_->replicas(id), 1);
      }
    });
  }
}

// Two full workers cannot exchange what only they hold: nothing is lost, and nothing begins.
TEST(MovePlan, WithoutRoomItStopsRatherThanLoseAnExpert) {
  const ExpertGrid grid{{true}, 2};
  HeldExperts held(grid, 2), target(grid, 2);
  held.put(0, {0, 0}), held.put(1, {0, 1});
  target.put(0, {0, 1}), target.put(1, {0, 0});
  EXPECT_TRUE(next_moves(held, target, {}, {.most_experts_w = {1, 1}}).empty());
  EXPECT_EQ(next_moves(held, target, {}, {.most_experts_w = {2, 1}}).size(), 1u);
}

TEST(MovePlan, WhatComesIsSpreadOverThoseThatHoldIt) {
  const ExpertGrid grid{{true}, 4};
  HeldExperts held(grid, 4), target(grid, 4);
  for (int32_t e = 0; e < 4; ++e) held.put(0, {0, e}), held.put(1, {0, e});
  target = held;
  for (int32_t e = 0; e < 4; ++e) target.put(2, {0, e}), target.put(3, {0, e});
  const auto moves = next_moves(held, target, {}, {.most_experts_w = {9, 9, 9, 9}});
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_NE(moves[0].from_worker, moves[1].from_worker);
}

// ---- repair

TEST(PlanRepair, BringsWhatNobodyHoldsToTheWorkersWithTheFewestForTheirSpeed) {
  const ExpertGrid grid{{true, false}, 6};
  HeldExperts held(grid, 3);
  held.put(0, {0, 0}), held.put(1, {0, 1});
  const RepairPlan plan =
      plan_repair(held, {true, true, false}, std::vector{1.0, 2.0, 1.0}, {}, {.most_experts_w = {9, 9, 9}});
  ASSERT_EQ(plan.moves.size(), 2u);
  EXPECT_EQ(plan.num_without_room, 0);
  EXPECT_EQ(plan.moves[0].worker, 0);
  EXPECT_EQ(plan.moves[1].worker, 1);
  EXPECT_EQ(plan.moves[0].num_experts + plan.moves[1].num_experts, 4);
  EXPECT_GT(plan.moves[1].num_experts, plan.moves[0].num_experts);
  EXPECT_FALSE(plan.moves[0].from_worker);
  EXPECT_TRUE(plan_repair(held, {true, true, false}, std::vector{1.0, 2.0, 1.0}, plan.moves,
                          {.most_experts_w = {9, 9, 9}})
                  .moves.empty())
      << "they are on their way";
}

TEST(PlanRepair, FullWorkersGiveUpFurtherReplicasFirst) {
  const ExpertGrid grid{{true}, 3};
  HeldExperts held(grid, 2);
  held.put(0, {0, 0}), held.put(0, {0, 1}), held.put(1, {0, 0}), held.put(1, {0, 1});
  const RepairPlan plan =
      plan_repair(held, {true, true}, std::vector{1.0, 1.0}, {}, {.most_experts_w = {2, 2}});
  ASSERT_EQ(plan.moves.size(), 1u);
  EXPECT_EQ(plan.moves[0].kind, ExpertMove::Kind::drop);
  EXPECT_EQ(plan.moves[0].num_experts, 1);
  EXPECT_EQ(plan.num_without_room, 0);
}

TEST(PlanRepair, SaysWhatHasNoRoom) {
  const ExpertGrid grid{{true}, 3};
  HeldExperts held(grid, 1);
  held.put(0, {0, 0});
  const RepairPlan plan = plan_repair(held, {true}, std::vector{1.0}, {}, {.most_experts_w = {2}});
  ASSERT_EQ(plan.moves.size(), 1u);
  EXPECT_EQ(plan.moves[0].num_experts, 1);
  EXPECT_EQ(plan.num_without_room, 1);
}

// Whatever is lost: repair and the moves it takes end with every expert held, where memory suffices.
TEST(PlanRepair, EndsWithEveryExpertHeldWhereThereIsRoomForAll) {
  for (int i = 0; i < kInstances; ++i) {
    SCOPED_TRACE(testing::Message() << "instance " << i);
    Course course(static_cast<uint64_t>(i) + 300'000);
    course.resident_w(0);
    if (course.num_workers_ < 2) continue;
    const int32_t lost = course.any_worker();
    course.lose(lost);
    std::vector<bool> can_add_w(static_cast<size_t>(course.num_workers_), true);
    can_add_w[static_cast<size_t>(lost)] = false;
    const std::vector<double> speed_w(can_add_w.size(), 1.0);
    int64_t room = 0, needed = 0;
    for (int32_t w = 0; w < course.num_workers_; ++w)
      if (w != lost) room += course.limits_.most_experts_w[static_cast<size_t>(w)];
    course.held_->for_each_expert([&](ExpertId) { ++needed; });
    for (int steps = 0; !course.held_->missing().empty(); ++steps) {
      ASSERT_LT(steps, 10'000);
      const RepairPlan plan =
          plan_repair(*course.held_, can_add_w, speed_w, course.under_way_, course.limits_);
      if (plan.moves.empty() && course.under_way_.empty()) break;
      for (const ExpertMove& move : plan.moves) {
        for (const ExpertId id : experts_of(move))
          move.kind == ExpertMove::Kind::add ? course.held_->put(move.worker, id)
                                             : course.held_->take(move.worker, id);
        ASSERT_LE(course.held_->total(move.worker),
                  course.limits_.most_experts_w[static_cast<size_t>(move.worker)]);
      }
    }
    if (room >= needed) {
      EXPECT_TRUE(course.held_->missing().empty());
    }
  }
}

}  // namespace
}  // namespace guildhall
