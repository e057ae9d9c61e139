// dispatcher_replicas_test.cc: experts that several workers hold: who is asked, and that the sums are the
// same whoever it is, and whoever comes, goes or changes what it holds in between.
#include "tests/unit/router/dispatcher_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::array kChoices{ReplicaChoice::least_loaded, ReplicaChoice::hash, ReplicaChoice::nearest,
                              ReplicaChoice::power_of_two};

class DispatcherReplicas : public DispatcherTest {
 protected:
  // Workers answer for what they hold only; w1's announcements are the test's.
  void hold_to_their_word() {
    for (int w = 0; w < setup_.num_workers; ++w) {
      held_w_.push_back(holdings(w));
      worker(w).serve = [this, w](const DispatchView& d) {
        for (const DispatchPair& pair : d.pairs)
          EXPECT_GT(std::ranges::count(held_w_[static_cast<size_t>(w)].experts_l[kLayer], pair.expert), 0)
              << "expert " << pair.expert << " is asked of w" << w;
        worker(w).answer(d);
      };
    }
  }
  void announce(int w, std::vector<int32_t> experts) {
    Holdings& held = held_w_[static_cast<size_t>(w)];
    ++held.version;
    held.experts_l[kLayer] = std::move(experts);
    dispatcher_->set_holdings(w, held);
  }
  void kill(int w) { fabric_.kill(name(w)); }
  // Pairs that each worker got in its last frame.
  std::vector<size_t> last_pairs() {
    std::vector<size_t> pairs_w;
    for (auto& w : workers_) pairs_w.push_back(w->received(w->frames.size() - 1).pairs.size());
    return pairs_w;
  }

  std::vector<Holdings> held_w_;
};

TEST_F(DispatcherReplicas, SumsAreTheSameWithEveryChoiceAndAnyNumberOfReplicas) {
  for (const ReplicaChoice choice : kChoices)
    for (int num_replicas = 1; num_replicas <= 4; ++num_replicas) {
      SCOPED_TRACE(testing::Message() << to_string(choice) << " of " << num_replicas);
      workers_.clear(), held_w_.clear();
      make({.num_workers = 4,
            .num_experts = 11,
            .top_k = 5,
            .hidden = 7,
            .max_tokens = 64,
            .num_replicas = num_replicas,
            .rules = {.choice = choice}});
      hold_to_their_word();
      for (const int64_t num_tokens : {1, 3, 64}) {
        choose_randomly(num_tokens, static_cast<uint64_t>(num_tokens));
        expect_a_good_step();
      }
    }
}

TEST_F(DispatcherReplicas, TheLeastLoadedReplicaIsAsked) {
  make({.num_workers = 2, .num_replicas = 2, .rules = {.choice = ReplicaChoice::least_loaded}});
  choose({{0, 1}, {0, 1}, {0, 1}, {0, 1}});
  expect_a_good_step();
  EXPECT_EQ(last_pairs(), (std::vector<size_t>{4, 4}));
}

TEST_F(DispatcherReplicas, RowsOfOneRequestGoTheSameWayWhereverTheyAreInTheBatch) {
  make({.num_workers = 3, .num_replicas = 3, .rules = {.choice = ReplicaChoice::hash}});
  choose({{0, 1}, {2, 3}});
  const std::vector<uint64_t> seed_s = {11, 12};
  const std::vector<int32_t> first_then_second = {0, 1}, second_then_first = {1, 0}, position_t = {5, 5};
  const auto pairs_w = [&](const std::vector<int32_t>& sequence_t) {
    y_th_.assign(x_th_.size(), 1.0f);
    EXPECT_TRUE(dispatcher_->dispatch({.layer = kLayer, .owners = {seed_s, sequence_t, position_t}}, x(),
                                      experts(), weights()));
    EXPECT_TRUE(dispatcher_->combine(0, {y_th_.data(), num_tokens_, setup_.hidden}));
    std::vector<std::vector<uint16_t>> experts_w;
    for (auto& w : workers_) {
      auto& list = experts_w.emplace_back();
      for (const DispatchPair& pair : w->received(w->frames.size() - 1).pairs) list.push_back(pair.expert);
      std::ranges::sort(list);
    }
    return experts_w;
  };
  const auto before = pairs_w(first_then_second);
  choose({{2, 3}, {0, 1}});
  EXPECT_EQ(pairs_w(second_then_first), before);
}

TEST_F(DispatcherReplicas, ALostWorkerIsNotMissedWhereOthersHoldItsExperts) {
  make({.num_workers = 3, .num_experts = 9, .num_replicas = 2});
  hold_to_their_word();
  choose_randomly(8, 1);
  expect_a_good_step();
  kill(1);
  dispatcher_->poll();
  EXPECT_EQ(dispatcher_->take_lost().size(), 1u);
  EXPECT_TRUE(dispatcher_->placement().is_covered());
  for (uint64_t seed = 0; seed < 5; ++seed) {
    choose_randomly(8, seed);
    expect_a_good_step();
  }
  kill(2);
  dispatcher_->poll();
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  EXPECT_EQ(done.error().code, Code::peer_lost);
  EXPECT_THAT(done.error().message, StartsWith("worker=w1: not connected; layer 1 expert "));
  EXPECT_THAT(done.error().message, HasSubstr("is held by nobody"));
}

TEST_F(DispatcherReplicas, AWorkerThatDiesAmidARoundVoidsItAndTheNextGoesWithoutIt) {
  make({.num_workers = 2, .num_replicas = 2});
  worker(1).serve = [this](const DispatchView&) { kill(1); };
  choose_randomly(6, 4);
  const Result<void> done = step();
  ASSERT_TRUE(done.has_error());
  EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
  EXPECT_EQ(dispatcher_->take_lost().size(), 1u);
  expect_a_good_step();
  EXPECT_THAT(dispatcher_->take_lost(), IsEmpty());
}

// It has answered the one, and is not asked in the other.
TEST_F(DispatcherReplicas, AWorkerLostBetweenTwoLayersVoidsNothing) {
  make({.num_workers = 2, .num_replicas = 2});
  choose_randomly(6, 4);
  ASSERT_TRUE(dispatch());
  while (worker(1).frames.empty()) pump();
  dispatcher_->poll();
  kill(1);
  dispatcher_->poll();
  const auto [begin, n] = std::pair{int64_t{0}, num_tokens_};
  ASSERT_TRUE(dispatcher_->dispatch({.layer = kLayer, .micro_batch = 1}, x().sub_rows(begin, n), experts(),
                                    weights()));
  std::vector<float> other(x_th_.size(), 1.0f);
  ASSERT_TRUE(combine());
  ASSERT_TRUE(dispatcher_->combine(1, {other.data(), num_tokens_, setup_.hidden}));
  EXPECT_EQ(y_th_, expected());
  EXPECT_EQ(other, expected());
}

TEST_F(DispatcherReplicas, AnAnnouncementCountsFromTheNextDispatchOn) {
  make({.num_workers = 2, .num_experts = 4});
  held_w_ = {holdings(0), holdings(1)};
  choose({{0, 1}, {2, 3}});
  ASSERT_TRUE(dispatch());
  announce(1, {0, 1, 2, 3});  // the round under way does not know
  announce(0, {});
  ASSERT_TRUE(combine());
  EXPECT_EQ(y_th_, expected());
  EXPECT_EQ(last_pairs(), (std::vector<size_t>{2, 2}));
  expect_a_good_step();
  EXPECT_EQ(last_pairs(), (std::vector<size_t>{0, 4}));
  EXPECT_EQ(worker(1).received(1).header.placement_version, held_w_[1].version);
}

TEST_F(DispatcherReplicas, AnExpertThatNobodyElseHoldsIsAskedForUntilOneDoes) {
  make({.num_workers = 2, .num_experts = 4});
  choose({{0, 1}, {2, 3}});
  held_w_ = {holdings(0), holdings(1)};
  announce(0, {0});  // 2 leaves, and w1 does not have it yet
  expect_a_good_step();
  EXPECT_EQ(last_pairs(), (std::vector<size_t>{2, 2}));
  EXPECT_FALSE(dispatcher_->placement().is_settled(0));
  announce(1, {1, 2, 3});
  expect_a_good_step();
  EXPECT_EQ(last_pairs(), (std::vector<size_t>{1, 3}));
  EXPECT_TRUE(dispatcher_->placement().is_settled(0));
}

// Replicas come and go between steps at random, as long as each expert has one.
TEST_F(DispatcherReplicas, SumsAreTheSameWhileReplicasComeAndGo) {
  for (const ReplicaChoice choice : kChoices) {
    SCOPED_TRACE(to_string(choice));
    workers_.clear(), held_w_.clear();
    make({.num_workers = 4,
          .num_experts = 9,
          .top_k = 4,
          .hidden = 5,
          .max_tokens = 16,
          .num_replicas = 2,
          .rules = {.choice = choice}});
    hold_to_their_word();
    std::mt19937_64 random(7);
    for (int round = 0; round < 60; ++round) {
      const int w = static_cast<int>(random() % 4);
      std::vector<int32_t> experts;
      for (int32_t e = 0; e < 9; ++e) {
        const bool elsewhere = std::ranges::any_of(held_w_, [&](const Holdings& h) {
          return &h != &held_w_[static_cast<size_t>(w)] && std::ranges::count(h.experts_l[kLayer], e) > 0;
        });
        if (!elsewhere || random() % 2 == 0) experts.push_back(e);
      }
      announce(w, experts);
      choose_randomly(1 + static_cast<int64_t>(random() % 16), random());
      ASSERT_NO_FATAL_FAILURE(expect_a_good_step());
    }
  }
}

}  // namespace
}  // namespace guildhall
