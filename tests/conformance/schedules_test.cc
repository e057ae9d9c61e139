// schedules_test.cc: random histories of faults, by seed. Whatever comes, a round gives the right bits or an
// error that names a worker; and once the faults are over and all have met anew, rounds are right.
//
// GUILDHALL_SCHEDULE=N runs the schedule of that seed alone, as a failure tells.
#include <cstdlib>

#include "tests/conformance/world.h"

namespace guildhall {
namespace {

using Phase = FaultyExchange::Phase;

// What a schedule came to, for comparing two runs of it.
struct History {
  std::vector<std::string> rounds;  // "right" or the error
  int num_right = 0;
};

class Schedule {
 public:
  Schedule(const Transport& transport, uint64_t seed)
      : random_(seed),
        world_(transport, {.num_workers = 1 + static_cast<int>(below(4)),
                           .num_routers = 1 + static_cast<int>(below(2)),
                           .seed = seed,
                           .patient = false}) {}

  History run() {
    for (uint64_t round = 2 + below(5); round > 0 && !::testing::Test::HasFailure(); --round) {
      draw_faults();
      const int router = static_cast<int>(below(static_cast<uint64_t>(world_.num_routers())));
      std::vector<Round> micro_batches;
      for (uint64_t m = 1 + below(3); m > 0; --m) micro_batches.push_back(world_.draw_round());
      note(world_.run_any(micro_batches, router));
      for_each_end([](FaultyExchange& end) { end.die_at(Phase::never); });
      mend();
    }
    for_each_end([](FaultyExchange& end) { end.set_faults({}); });
    world_.attach_all();  // while frames of the old links are still under way
    for (int router = 0; router < world_.num_routers(); ++router) world_.expect_right_in_the_end(router);
    return std::move(history_);
  }

 private:
  uint64_t below(uint64_t n) { return random_() % n; }
  // Up to `most`; off nearly always, so that rounds get through and each fault meets every other.
  double draw(double most) { return below(10) == 0 ? most * static_cast<double>(1 + below(4)) / 4 : 0; }

  template <class Do>
  void for_each_end(Do act) {
    for (int w = 0; w < world_.num_workers(); ++w) act(world_.worker_end(w));
    for (int r = 0; r < world_.num_routers(); ++r) act(world_.router_end(r));
  }

  void draw_faults() {
    for_each_end([&](FaultyExchange& end) {
      end.set_faults({.drop = draw(0.4),
                      .duplicate = draw(1),
                      .reorder = draw(1),
                      .truncate = draw(0.2),
                      .oversize = draw(0.2),
                      .corrupt_header = draw(0.4),
                      .corrupt_payload = draw(0.4),
                      .stale_generation = draw(0.2),
                      .newer_version = draw(0.1),
                      .max_delay_polls = below(3) == 0 ? 12u : 0u});
      constexpr Phase phases[] = {Phase::at_once, Phase::frame_arrives, Phase::acquires, Phase::posts,
                                  Phase::posted};
      if (below(24) == 0) end.die_at(phases[below(std::size(phases))]);
    });
  }

  // What a router hears of, it mends; a dead router is replaced. Frames stay as hostile as they are.
  void mend() {
    for (int router = 0; router < world_.num_routers(); ++router) {
      if (world_.router_end(router).dead()) return world_.attach_all();
      if (below(2) == 0) world_.dispatcher(router).poll();
      world_.attach_lost(router);
    }
  }

  void note(const Result<void>& round) {
    history_.num_right += !round.has_error();
    history_.rounds.push_back(round.has_error() ? to_string(round.error()) : "right");
  }

  std::mt19937_64 random_;
  World world_;
  History history_;
};

History run_schedule(const Transport& transport, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "GUILDHALL_SCHEDULE=" << seed);
  return Schedule(transport, seed).run();
}

// ---- loopback: exact

constexpr uint64_t kSchedules = 1000, kShards = 4;

class LoopbackSchedules : public ::testing::TestWithParam<uint64_t> {};

TEST_P(LoopbackSchedules, GiveTheRightBitsOrNameAWorker) {
  const char* only = std::getenv("GUILDHALL_SCHEDULE");
  size_t num_rounds = 0, num_right = 0;
  for (uint64_t seed = GetParam(); seed < kSchedules; seed += kShards) {
    if (only != nullptr) seed = std::strtoull(only, nullptr, 10);
    const History history = run_schedule(plain_loopback(), seed);
    if (only != nullptr)
      for (const std::string& round : history.rounds) std::printf("%s\n", round.c_str());
    num_rounds += history.rounds.size(), num_right += static_cast<size_t>(history.num_right);
    if (HasFailure() || only != nullptr) break;
  }
  std::printf("%zu rounds, %zu right\n", num_rounds, num_right);
  if (only != nullptr) return;
  EXPECT_GT(num_right, num_rounds / 5);  // or there is nothing but noise
  EXPECT_LT(num_right, num_rounds * 4 / 5);
}

INSTANTIATE_TEST_SUITE_P(Shards, LoopbackSchedules, ::testing::Range(uint64_t{0}, kShards));

TEST(LoopbackSchedulesReplay, ExactlyFromTheirSeed) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const History once = run_schedule(plain_loopback(), seed), again = run_schedule(plain_loopback(), seed);
    EXPECT_EQ(once.rounds, again.rounds) << seed;
  }
}

// ---- between threads: as many as time allows; the seed gives the faults, not their interleaving

class ThreadedSchedules : public ::testing::TestWithParam<Transport> {};

TEST_P(ThreadedSchedules, GiveTheRightBitsOrNameAWorker) {
  const char* only = std::getenv("GUILDHALL_SCHEDULE");
  if (only != nullptr) return void(run_schedule(GetParam(), std::strtoull(only, nullptr, 10)));
  for (uint64_t seed = 0; seed < 12 && !HasFailure(); ++seed) run_schedule(GetParam(), seed);
}

// Not ucx_tcp: UCX 1.13 itself aborts when a connection breaks while its wire-up messages wait for it
// (openucx/ucx#8175), which some of these schedules reach one time in ten. The other suites have it.
std::vector<Transport> threaded() {
  std::vector<Transport> all = transports();
  std::erase_if(all, [](const Transport& t) { return !t.threads || t.name == "ucx_tcp"; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Transports, ThreadedSchedules, ::testing::ValuesIn(threaded()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace guildhall
