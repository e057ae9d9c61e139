#include "router/swap_policy.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

constexpr SwapPolicy::Work kWork{.num_tokens = 1000, .bytes = 1'000'000};

TEST(SwapPolicy, MayBeSetOnceAndForAll) {
  SwapPolicy swap(Preemption::swap), recompute(Preemption::recompute);
  for (SwapPolicy* policy : {&swap, &recompute}) {
    policy->record_copy(SwapPolicy::Direction::out, 1000, 1000);
    policy->record_prefill({.position = 0, .num_tokens = 1000, .ns = 1'000'000});
  }
  EXPECT_TRUE(swap.swaps(kWork));
  EXPECT_FALSE(recompute.swaps(kWork));
}

TEST(SwapPolicy, MeasuresACopyFirst) {
  SwapPolicy policy(Preemption::measured);
  EXPECT_TRUE(policy.swaps(kWork));
  policy.record_prefill({.position = 0, .num_tokens = 1000, .ns = 1});
  EXPECT_TRUE(policy.swaps(kWork));
}

TEST(SwapPolicy, TakesWhatIsCheaper) {
  SwapPolicy policy(Preemption::measured);
  policy.record_copy(SwapPolicy::Direction::out, 1000, 1000);                   // 1 ns a byte
  policy.record_prefill({.position = 0, .num_tokens = 1000, .ns = 3'000'000});  // 3 us a token
  EXPECT_DOUBLE_EQ(policy.copy_ns(kWork), 2e6);  // in is taken to be as fast as out
  EXPECT_DOUBLE_EQ(policy.compute_ns(kWork), 3e6);
  EXPECT_TRUE(policy.swaps(kWork));
  policy.record_copy(SwapPolicy::Direction::in, 1000, 4000);
  EXPECT_DOUBLE_EQ(policy.copy_ns(kWork), 5e6);
  EXPECT_FALSE(policy.swaps(kWork));
}

TEST(SwapPolicy, LaterTokensMayTakeLonger) {
  SwapPolicy policy(Preemption::measured);
  policy.record_copy(SwapPolicy::Direction::out, 1000, 1000);
  policy.record_prefill({.position = 0, .num_tokens = 100, .ns = 100'000});     // 1 us a token
  policy.record_prefill({.position = 4096, .num_tokens = 100, .ns = 900'000});  // 9 us
  // 1500 bytes a token are 3 us there and back: computing is cheaper while the context is short.
  for (const auto& [num_tokens, swaps] : {std::pair{100, false}, {4000, false}, {16384, true}})
    EXPECT_EQ(policy.swaps({.num_tokens = num_tokens, .bytes = 1500 * num_tokens}), swaps) << num_tokens;
  EXPECT_DOUBLE_EQ(policy.compute_ns({.num_tokens = 8192}), 4096 * 1e3 + 4096 * 9e3);
  EXPECT_DOUBLE_EQ(policy.compute_ns({.num_tokens = 1000, .position = 4000}), 96 * 1e3 + 904 * 9e3);
  EXPECT_DOUBLE_EQ(policy.compute_ns({.num_tokens = 1000, .position = 6000}), 1000 * 9e3);
}

TEST(SwapPolicy, TriesACopyEveryNowAndThen) {
  SwapPolicy policy(Preemption::measured);
  policy.record_copy(SwapPolicy::Direction::out, 1000, 1'000'000);
  policy.record_prefill({.position = 0, .num_tokens = 1000, .ns = 1000});
  int num_swaps = 0;
  for (int i = 0; i < 3 * SwapPolicy::kInterval; ++i) num_swaps += policy.swaps(kWork);
  EXPECT_EQ(num_swaps, 3);
}

TEST(SwapPolicy, OneDisturbedTimeDoesNotTurnIt) {
  SwapPolicy policy(Preemption::measured);
  for (int i = 0; i < 5; ++i) policy.record_copy(SwapPolicy::Direction::out, 1000, 1000);
  policy.record_prefill({.position = 0, .num_tokens = 1000, .ns = 3'000'000});
  policy.record_copy(SwapPolicy::Direction::out, 1000, 1'000'000'000);
  EXPECT_TRUE(policy.swaps(kWork));
}

}  // namespace
}  // namespace guildhall
