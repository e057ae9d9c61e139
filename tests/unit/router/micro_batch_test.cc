// micro_batch_test.cc: where a step is divided, and when it is, on injected times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "router/micro_batch_policy.h"
#include "router/micro_batch_split.h"
#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

using Times = std::function<int64_t(int64_t num_tokens, int num_micro_batches)>;

// Runs steps of a size and counts those of two micro-batches.
int count_twos(MicroBatchPolicy& policy, int num_steps, int64_t num_tokens, const Times& step_ns) {
  int twos = 0;
  for (int i = 0; i < num_steps; ++i) {
    const int chosen = policy.choose(num_tokens);
    twos += chosen == 2;
    policy.record(
        {.num_tokens = num_tokens, .num_micro_batches = chosen, .step_ns = step_ns(num_tokens, chosen)});
  }
  return twos;
}

Times two_takes(double share) {
  return [share](int64_t n, int m) {
    return static_cast<int64_t>(1e6 * static_cast<double>(n) * (m == 2 ? share : 1.0));
  };
}

TEST(MicroBatchPolicy, AFixedChoiceIsKept) {
  MicroBatchPolicy one(MicroBatches::one), two(MicroBatches::two);
  EXPECT_EQ(count_twos(one, 1000, 64, two_takes(0.5)), 0);
  EXPECT_EQ(count_twos(two, 1000, 64, two_takes(2)), 1000);
}

TEST(MicroBatchPolicy, OneTokenIsNeverDivided) {
  for (const MicroBatches setting : {MicroBatches::automatic, MicroBatches::one, MicroBatches::two}) {
    MicroBatchPolicy policy(setting);
    EXPECT_EQ(count_twos(policy, 1000, 1, two_takes(0.1)), 0);
    EXPECT_EQ(policy.choose(0), 1);
  }
}

TEST(MicroBatchPolicy, TakesTheFasterAfterTryingBothInTurn) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  EXPECT_EQ(count_twos(policy, 2 * MicroBatchPolicy::kTrials, 64, two_takes(0.7)), MicroBatchPolicy::kTrials);
  EXPECT_EQ(count_twos(policy, 100, 64, two_takes(0.7)), 100);
}

TEST(MicroBatchPolicy, TrialsOfTheSlowerAreBounded) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  const int num_steps = 10 * MicroBatchPolicy::kInterval;
  EXPECT_LE(count_twos(policy, num_steps, 64, two_takes(1.3)), 11 * MicroBatchPolicy::kTrials);
  EXPECT_GE(count_twos(policy, num_steps, 64, two_takes(1.3)), MicroBatchPolicy::kTrials);
}

TEST(MicroBatchPolicy, FollowsAChangeWithinTwoIntervals) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  count_twos(policy, 100, 64, two_takes(1.3));
  count_twos(policy, 2 * MicroBatchPolicy::kInterval, 64, two_takes(0.7));
  EXPECT_EQ(count_twos(policy, 50, 64, two_takes(0.7)), 50);
  count_twos(policy, 2 * MicroBatchPolicy::kInterval, 64, two_takes(1.3));
  EXPECT_EQ(count_twos(policy, 50, 64, two_takes(1.3)), 0);
}

TEST(MicroBatchPolicy, EqualsAreNotDivided) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  count_twos(policy, 2 * MicroBatchPolicy::kTrials, 64, two_takes(0.99));
  EXPECT_EQ(count_twos(policy, 100, 64, two_takes(0.99)), 0);
}

TEST(MicroBatchPolicy, StepSizesAreJudgedApart) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  const Times large_pays = [](int64_t n, int m) { return n * 1000 * (m == 1 ? 3 : n >= 32 ? 2 : 4); };
  for (const int64_t n : {2, 3, 8, 9, 31, 32, 100, 4096, 65536}) count_twos(policy, 50, n, large_pays);
  for (const int64_t n : {2, 3, 8, 9, 31}) EXPECT_EQ(policy.choose(n), 1) << n;
  for (const int64_t n : {32, 100, 4096, 65536}) EXPECT_EQ(policy.choose(n), 2) << n;
}

TEST(MicroBatchPolicy, ADisturbedStepDoesNotDecide) {
  MicroBatchPolicy policy(MicroBatches::automatic);
  int step = 0;
  const Times disturbed = [&](int64_t n, int m) {
    return static_cast<int64_t>(1e6 * static_cast<double>(n) * (m == 2 ? 0.5 : 1.0) *
                                (step++ == 3 ? 1000 : 1));
  };
  count_twos(policy, 2 * MicroBatchPolicy::kTrials, 64, disturbed);
  EXPECT_EQ(policy.choose(64), 2);
}

TEST(MicroBatchSplit, NothingToDivideIsZero) {
  EXPECT_EQ(split_by_work(tiny_gqa_spec(), {}), 0);
  EXPECT_EQ(split_by_work(tiny_gqa_spec(), std::vector<int32_t>{5}), 0);
}

TEST(MicroBatchSplit, EqualTokensAreHalved) {
  for (const ModelSpec& spec : {tiny_gqa_spec(), tiny_mla_spec()}) {
    EXPECT_EQ(split_by_work(spec, std::vector<int32_t>(2, 7)), 1);
    EXPECT_EQ(split_by_work(spec, std::vector<int32_t>(64, 7)), 32);
    EXPECT_THAT(split_by_work(spec, std::vector<int32_t>(7, 7)), ::testing::AnyOf(3, 4));
  }
}

TEST(MicroBatchSplit, ALongContextCountsForMore) {
  for (const ModelSpec& spec : {tiny_gqa_spec(), tiny_mla_spec()}) {
    std::vector<int32_t> prompt(1000);
    std::iota(prompt.begin(), prompt.end(), 0);
    EXPECT_GT(split_by_work(spec, prompt), 510);
    EXPECT_LT(split_by_work(spec, prompt), 1000 * 0.7072);  // all attention: the triangle's half
    // One decode at the end of a long context, then a short prompt.
    std::vector<int32_t> mixed{1 << 20};
    for (int32_t i = 0; i < 50; ++i) mixed.push_back(i);
    EXPECT_EQ(split_by_work(spec, mixed), 1);
    std::reverse(mixed.begin(), mixed.end());
    EXPECT_EQ(split_by_work(spec, mixed), 50);
  }
}

}  // namespace
}  // namespace guildhall
