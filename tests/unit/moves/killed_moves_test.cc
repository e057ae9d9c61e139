// killed_moves_test.cc: an expert moves from one worker to another, and at each phase of that the worker that
// gets it, the one that has it, or the router's control link to either ends. Whatever it is: requests under
// way end with the tokens they would have had, and afterwards every expert is held.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/moves/moving_cluster.h"

namespace guildhall {
namespace {

constexpr int kWorkers = 3;
constexpr int32_t kFrom = 0, kTo = 1;  // the even split has experts 0, 1 and 2 of nine on worker 0
constexpr int32_t kExpert = 0;

enum class Phase { add_sent, loading, announced, switched, added, drop_sent, retiring, seen, freed };
enum class Victim { destination, source, link_to_destination, link_to_source };

constexpr std::array kPhases{Phase::add_sent, Phase::loading, Phase::announced,
                             Phase::switched, Phase::added,   Phase::drop_sent,
                             Phase::retiring, Phase::seen,    Phase::freed};
constexpr std::array<std::string_view, 9> kPhaseNames{
    "AddSent", "Loading", "Announced", "Switched", "Added", "DropSent", "Retiring", "Seen", "Freed"};
constexpr std::array kVictims{Victim::destination, Victim::source, Victim::link_to_destination,
                              Victim::link_to_source};
constexpr std::array<std::string_view, 4> kVictimNames{"Destination", "Source", "LinkToDestination",
                                                       "LinkToSource"};

EngineRequest request(uint64_t seed) {
  EngineRequest request;
  request.prompt_ids = {5, 9, 2, 77, static_cast<int32_t>(31 + seed)};
  request.sampling.temperature = 0.8F;
  request.seed = seed;
  request.max_tokens = 96;
  return request;
}

class KilledMoves : public testing::TestWithParam<std::tuple<Phase, Victim>> {
 protected:
  MovingCluster::Hooks hooks() {
    return {.announced =
                [this](int32_t worker, const Holdings& holdings) {
                  if (worker == kTo && has(holdings)) at(Phase::announced);
                  if (worker == kFrom && !has(holdings)) at(Phase::retiring);
                },
            .taken =
                [this](int32_t worker, const Holdings& holdings) {
                  if (worker == kTo && has(holdings)) at(Phase::switched);
                  if (worker == kFrom && !has(holdings)) at(Phase::seen);
                }};
  }

  bool has(const Holdings& holdings) const {
    const auto& experts = holdings.experts_l[layer_];
    return std::ranges::find(experts, kExpert) != experts.end();
  }

  // The phase is reached; once. What ends, ends now: whoever calls this waits for it.
  void at(Phase phase) {
    if (!armed_ || phase != std::get<Phase>(GetParam()) || reached_.exchange(true)) return;
    const Victim victim = std::get<Victim>(GetParam());
    const int32_t worker =
        victim == Victim::destination || victim == Victim::link_to_destination ? kTo : kFrom;
    if (victim == Victim::destination || victim == Victim::source) {
      cluster_.kill_worker(worker);
      killed_ = worker;
    } else {
      cluster_.cut_link(worker);
    }
    ended_ = true;
  }
  // Nothing ends just now.
  bool is_calm() const { return !reached_ || ended_; }

  ExpertsOfLayer moved() const {
    ExpertsOfLayer experts_l(cluster_.spec().is_moe_layer.size());
    experts_l[layer_] = {kExpert};
    return experts_l;
  }

  // Each ends as it may; whether it went through.
  bool add() {
    // Slowly where it is to be met under way.
    const bool slow = std::get<Phase>(GetParam()) == Phase::loading;
    auto ended = std::make_shared<std::promise<bool>>();
    cluster_.cluster().add_experts(
        {.worker = kTo, .experts_l = moved(), .from_worker = kFrom, .bytes_per_s = slow ? 20'000 : 0},
        [ended](const MoveOutcome& outcome) { ended->set_value(!outcome.result.has_error()); });
    at(Phase::add_sent);
    if (slow) {
      cluster_.submit(request(7)).wait();  // time for it to begin
      at(Phase::loading);
    }
    return ended->get_future().get();
  }
  bool drop() {
    auto ended = std::make_shared<std::promise<bool>>();
    cluster_.cluster().drop_experts(kFrom, moved(), [ended](const MoveOutcome& outcome) {
      ended->set_value(!outcome.result.has_error());
    });
    at(Phase::drop_sent);
    auto future = ended->get_future();
    // Where the only other worker that has it is gone, it goes when another has it, and not before.
    while (future.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) restart(), repair();
    return future.get();
  }
  // As the balancer does: what nobody announces, a worker is asked to load; once.
  void repair() {
    if (!reached_ || !cluster_.all_ready() || cluster_.not_covered().empty()) return;
    if (!std::exchange(repaired_, true))
      cluster_.cluster().add_experts({.worker = kTo, .experts_l = moved()}, [](const MoveOutcome&) {});
  }
  // Once, what was killed.
  void restart() {
    if (ended_ && killed_ >= 0 && !std::exchange(restarted_, true)) cluster_.start_worker(killed_);
  }

  GoldenCase golden_ = read_golden_case(std::string("qwen3_moe_f32"));
  size_t layer_ = 0;  // the first with experts
  std::atomic<bool> armed_{false}, reached_{false}, ended_{false};
  std::atomic<int> killed_{-1};
  bool restarted_ = false, repaired_ = false;
  MovingCluster cluster_{golden_.path, kWorkers, hooks()};
};

TEST_P(KilledMoves, LoseNeitherExpertsNorRequests) {
  while (!cluster_.spec().is_moe_layer[layer_]) ++layer_;
  ASSERT_TRUE(MovingCluster::await([&] { return cluster_.all_ready(); }));
  std::vector<std::vector<int32_t>> expected;
  for (uint64_t seed = 0; seed < 3; ++seed) expected.push_back(cluster_.submit(request(seed)).get().tokens);

  armed_ = true;

  std::vector<std::future<Completion>> under_way;
  for (uint64_t seed = 0; seed < 3; ++seed) under_way.push_back(cluster_.submit(request(seed)));
  const bool added = add();
  if (added) at(Phase::added);
  // What was announced is switched to, be it after the worker says that it is done.
  const bool comes = added && std::get<Phase>(GetParam()) <= Phase::added;
  ASSERT_TRUE(MovingCluster::await([&] { return is_calm() && (reached_ || !comes); }));
  // Dropped only where the other has it, as the balancer does.
  if (added && killed_ < 0 && MovingCluster::await([&] { return cluster_.all_ready(); }) &&
      cluster_.holds(kTo, layer_, kExpert) && drop())
    at(Phase::freed);
  ASSERT_TRUE(MovingCluster::await([&] { return is_calm(); }));
  restart();

  for (size_t i = 0; i < under_way.size(); ++i) {
    const Completion completion = under_way[i].get();
    EXPECT_EQ(completion.tokens, expected[i]) << (completion.error ? completion.error->message : "");
  }
  EXPECT_TRUE(reached_) << "the phase was not";
  ASSERT_TRUE(MovingCluster::await([&] { return cluster_.all_ready(); }));
  EXPECT_TRUE(MovingCluster::await([&] {
    repair();
    return cluster_.not_covered().empty();
  })) << cluster_.not_covered();
  EXPECT_EQ(cluster_.submit(request(1)).get().tokens, expected[1]);
}

INSTANTIATE_TEST_SUITE_P(AtEveryPhase, KilledMoves,
                         testing::Combine(testing::ValuesIn(kPhases), testing::ValuesIn(kVictims)),
                         [](const auto& info) {
                           return fmt::format("{}_{}",
                                              kPhaseNames[static_cast<size_t>(std::get<0>(info.param))],
                                              kVictimNames[static_cast<size_t>(std::get<1>(info.param))]);
                         });

}  // namespace
}  // namespace guildhall
