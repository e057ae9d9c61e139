#include "router/balance/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/balance/balance_fixture.h"
#include "tests/unit/balance/synthetic_routing.h"

namespace guildhall {
namespace {

ReplayReport replayed(Policy policy, const ReplayOptions& base, const SyntheticRouting& routing) {
  const TraceHeader header = small_trace_header();
  const BalanceWorkers workers = even_workers(4, 20, 2);
  ReplayOptions options = base;
  options.policy = policy;
  options.policy_options.num_groups = header.num_groups;
  Replay replay(header, workers, options);
  for (const TraceStep& step : synthetic_steps(header, routing)) replay.add(step);
  return replay.finish();
}

constexpr SyntheticRouting kTrace{.num_steps = 400, .decode_tokens = 64};
const ReplayOptions kOptions{.gate = {.expert_bytes = 1000},
                             .costs = {.pair_ns = 100, .activation_ns = 10},
                             .window_steps = 100,
                             .interval_us = 1'000'000};  // 50 steps

TEST(Replay, PoliciesBeatTheEvenSplitOnStepsTheyDidNotSee) {
  const ReplayReport still = replayed(Policy::keep, kOptions, kTrace);
  EXPECT_EQ(still.num_decisions, 7);
  EXPECT_EQ(still.num_moves, 0);
  for (const Policy policy : {Policy::eplb, Policy::incremental}) {
    const ReplayReport report = replayed(policy, kOptions, kTrace);
    EXPECT_GT(report.num_moves, 0) << to_string(policy);
    EXPECT_EQ(report.moved_bytes, report.num_moves * 1000);
    EXPECT_LT(report.step_ns, 0.9 * still.step_ns) << to_string(policy);
    EXPECT_EQ(report.balancedness_l.size(), 5u);
    EXPECT_FALSE(report.reasons.empty());
  }
}

TEST(Replay, MovesNoMoreThanItMay) {
  ReplayOptions options = kOptions;
  options.gate.max_moves = 3;
  options.gate.min_gain = 0;
  const ReplayReport report = replayed(Policy::incremental, options, kTrace);
  EXPECT_GT(report.num_moves, 0);
  EXPECT_LE(report.num_moves, 3 * report.num_decisions);
}

TEST(Replay, AnIntervalLongerThanTheTraceDecidesNothing) {
  ReplayOptions options = kOptions;
  options.interval_us = 3'600'000'000;
  const ReplayReport report = replayed(Policy::eplb, options, kTrace);
  EXPECT_EQ(report.num_decisions, 0);
  EXPECT_EQ(report.step_ns, replayed(Policy::keep, options, kTrace).step_ns);
}

TEST(LoadWindow, HoldsTheNewestSteps) {
  const TraceHeader header = small_trace_header();
  LoadWindow window(header, 80);
  const auto steps = synthetic_steps(header, {.num_steps = 200, .decode_tokens = 3});
  for (const TraceStep& step : steps) window.add(step);
  EXPECT_EQ(window.num_steps(), 80);
  const Loads loads = window.loads();
  EXPECT_TRUE(loads.load_le[0].empty());
  int64_t decode = 0, prefill = 0;
  for (const ExpertLoad& load : loads.load_le[3]) {
    decode += load.decode_tokens, prefill += load.prefill_tokens;
    EXPECT_LE(load.decode_active_steps, load.active_steps);
    EXPECT_LE(load.active_steps, 80);
    EXPECT_LE(load.active_steps, load.tokens());
  }
  EXPECT_EQ(decode, 80 * 3 * header.top_k);
  EXPECT_EQ(prefill, 8 * 128 * header.top_k);
}

TEST(LoadWindow, AStepOfBothPhasesTouchesAnExpertOnce) {
  TraceHeader header = small_trace_header();
  header.moe_layers = {1};
  LoadWindow window(header, 8);
  window.add({.prefill_tokens = 2,
              .decode_tokens = 2,
              .prefill_le = {{{1, 2}, {4, 2}}},
              .decode_le = {{{0, 2}, {4, 2}}}});
  const Loads loads = window.loads();
  const auto& load_e = loads.load_le[1];
  EXPECT_EQ(load_e[0].active_steps, 1);
  EXPECT_EQ(load_e[1].active_steps, 1);
  EXPECT_EQ(load_e[4].active_steps, 1);
  EXPECT_EQ(load_e[4].tokens(), 4);
  EXPECT_EQ(load_e[1].decode_active_steps, 0);
}

}  // namespace
}  // namespace guildhall
