// death_test.cc: a worker or a router dies, without a word, in each phase of a round. Whoever is left goes
// on; who comes in its place is served.
#include "tests/conformance/world.h"

namespace guildhall {
namespace {

using ::testing::Contains;
using ::testing::StartsWith;
using Phase = FaultyExchange::Phase;

struct Death {
  std::string name;
  Phase phase;
};

struct Case {
  Transport transport;
  Death death;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.transport.name << " " << c.death.name; }

std::vector<Case> cases(const std::vector<Death>& deaths) {
  std::vector<Case> all;
  for (const Transport& transport : transports())
    for (const Death& death : deaths) all.push_back({transport, death});
  return all;
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return info.param.transport.name + "_" + info.param.death.name;
}

// ---- workers

class WorkerDies : public ::testing::TestWithParam<Case> {};

TEST_P(WorkerDies, TheRoundNamesItAndItsSuccessorServes) {
  World world(GetParam().transport, {.patient = false});
  ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end());
  for (int i = 0; i < 3; ++i) {
    world.worker_end(1).die_at(GetParam().death.phase);
    Round round = world.draw_round({1});
    while (round.num_tokens == 0) round = world.draw_round({1});
    const Result<void> done = world.run_any({round});
    // Its last answer may have left before it died: then the round is right, and the next one names it.
    if (GetParam().death.phase == Phase::posted && !done.has_error()) {
      const Result<void> next = world.run_any({round});
      ASSERT_TRUE(next.has_error());
      EXPECT_THAT(next.error().message, StartsWith("worker=w1: "));
    } else {
      ASSERT_TRUE(done.has_error());
      EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
    }
    ASSERT_TRUE(world.drive([&] { return world.worker_end(1).dead(); }));
    world.attach_lost();
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end());
  }
}

INSTANTIATE_TEST_SUITE_P(Phases, WorkerDies,
                         ::testing::ValuesIn(cases({{"before_the_dispatch", Phase::at_once},
                                                    {"as_the_dispatch_arrives", Phase::frame_arrives},
                                                    {"while_serving", Phase::acquires},
                                                    {"before_the_combine", Phase::posts},
                                                    {"after_the_combine", Phase::posted}})),
                         name_of);

// ---- routers

class RouterDies : public ::testing::TestWithParam<Case> {};

TEST_P(RouterDies, TheOthersRoundsAreRightAndItsSuccessorIsServed) {
  World world(GetParam().transport, {.num_routers = 2});
  ASSERT_NO_FATAL_FAILURE(world.expect_right(0));
  for (int i = 0; i < 3; ++i) {
    world.router_end(0).die_at(GetParam().death.phase);
    // What a dead process would have thought does not matter, but it is a dispatch for everybody.
    Round round = world.draw_round();
    while (round.num_tokens < 8) round = world.draw_round();
    (void)world.dispatch(round, 0);
    for (int j = 0; j < 3; ++j) ASSERT_NO_FATAL_FAILURE(world.expect_right(1));
    ASSERT_TRUE(world.drive([&] {
      world.dispatcher(0).poll();
      return world.router_end(0).dead();
    }));
    for (int j = 0; j < 3; ++j) ASSERT_NO_FATAL_FAILURE(world.expect_right(1));
    world.replace_router(0);
    for (int w = 0; w < world.num_workers(); ++w) ASSERT_TRUE(world.attach(0, w));
    ASSERT_NO_FATAL_FAILURE(world.expect_right(0));
    ASSERT_NO_FATAL_FAILURE(world.expect_right(1));
  }
}

INSTANTIATE_TEST_SUITE_P(Phases, RouterDies,
                         ::testing::ValuesIn(cases({{"before_its_dispatch", Phase::acquires},
                                                    {"amid_its_dispatch", Phase::posted},
                                                    {"before_the_workers_notice", Phase::at_once},
                                                    {"as_an_answer_arrives", Phase::frame_arrives}})),
                         name_of);

}  // namespace
}  // namespace guildhall
