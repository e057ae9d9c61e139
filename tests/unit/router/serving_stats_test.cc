// serving_stats_test.cc: which moments of a request's life make up which histogram.
#include "router/serving_stats.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(Histogram, BoundsAreInclusiveAndTheRestHasABucket) {
  constexpr std::array kBounds = std::to_array<double>({1, 2});
  Histogram h{kBounds};
  h.observe(0.5), h.observe(1), h.observe(1.5, 3), h.observe(100);
  EXPECT_EQ(h.count(0), 2);
  EXPECT_EQ(h.count(1), 3);
  EXPECT_EQ(h.count(2), 1);
  EXPECT_EQ(h.total(), 6);
  EXPECT_EQ(h.sum(), 106);
}

TEST(ServingStats, ARequestQueuesReadsAndWrites) {
  ServingStats stats;
  RequestTimes times{.submitted_ns = 1 * kSecond};
  stats.record_start(times, 3 * kSecond);
  stats.record_start(times, 4 * kSecond);  // its second step
  stats.record_tokens(times, 1, 7 * kSecond);
  stats.record_tokens(times, 1, 8 * kSecond);
  stats.record_tokens(times, 2, 9 * kSecond);  // two of one step: half the time each
  stats.record_finish(times, FinishReason::stop, 100, 4, 9 * kSecond);
  EXPECT_EQ(stats.queue_time.sum(), 2);
  EXPECT_EQ(stats.queue_time.total(), 1);
  EXPECT_EQ(stats.prefill_time.sum(), 4);
  EXPECT_EQ(stats.time_to_first_token.sum(), 6);
  EXPECT_EQ(stats.inter_token_latency.sum(), 2);
  EXPECT_EQ(stats.inter_token_latency.total(), 3);
  EXPECT_EQ(stats.decode_time.sum(), 2);
  EXPECT_EQ(stats.end_to_end.sum(), 8);
  EXPECT_EQ(stats.request_prompt_tokens.sum(), 100);
  EXPECT_EQ(stats.request_generated_tokens.sum(), 4);
}

TEST(ServingStats, SeveralFirstTokensCountTheFirstAlone) {
  ServingStats stats;
  RequestTimes times{.submitted_ns = 1 * kSecond, .started_ns = 1 * kSecond};
  stats.record_tokens(times, 3, 2 * kSecond);
  EXPECT_EQ(stats.time_to_first_token.total(), 1);
  EXPECT_EQ(stats.inter_token_latency.total(), 2);
  EXPECT_EQ(stats.inter_token_latency.sum(), 0);
}

TEST(ServingStats, WhoDidNotGetWhatTheyAskedForIsCountedOnly) {
  ServingStats stats;
  stats.record_finish({.submitted_ns = kSecond}, FinishReason::cancelled, 10, 0, 2 * kSecond);
  stats.record_finish({.submitted_ns = kSecond}, FinishReason::error, 10, 0, 2 * kSecond);
  stats.record_finish({.submitted_ns = kSecond}, FinishReason::length, 10, 0, 2 * kSecond);  // scored only
  EXPECT_EQ(stats.finished, (std::array<int64_t, kNumFinishReasons>{0, 1, 1, 1}));
  EXPECT_EQ(stats.end_to_end.total(), 1);
  EXPECT_EQ(stats.decode_time.total(), 0);
}

TEST(ServingStats, StepsHaveSizesAndTimes) {
  ServingStats stats;
  stats.record_step(/*num_tokens=*/40, /*num_sequences=*/9, kSecond / 2);
  EXPECT_EQ(stats.step_tokens.sum(), 40);
  EXPECT_EQ(stats.step_sequences.sum(), 9);
  EXPECT_EQ(stats.step_seconds.sum(), 0.5);
}

}  // namespace
}  // namespace guildhall
