#include "router/micro_batch_policy.h"

#include <algorithm>
#include <bit>

namespace guildhall {
namespace {

constexpr double kSmoothing = 0.3;    // weight of the newest time: kTrials of them renew three quarters
constexpr double kLargestJump = 2.0;  // a step that was disturbed counts as at most this much slower

// Exact up to 8 tokens, then four per power of two.
size_t bucket_idx(int64_t num_tokens) {
  const auto n = static_cast<uint64_t>(num_tokens);
  if (n <= 8) return n;
  const int log2 = std::bit_width(n) - 1;
  return static_cast<size_t>(4 * log2) + ((n >> (log2 - 2)) & 3);
}

}  // namespace

MicroBatchPolicy::Bucket& MicroBatchPolicy::bucket_of(int64_t num_tokens) {
  const size_t idx = bucket_idx(num_tokens);
  if (idx >= buckets_.size()) buckets_.resize(idx + 1);
  return buckets_[idx];
}

int MicroBatchPolicy::choose(int64_t num_tokens) {
  if (num_tokens < 2 || setting_ == MicroBatches::one) return 1;
  if (setting_ == MicroBatches::two) return 2;
  const Bucket& bucket = bucket_of(num_tokens);
  if (bucket.trials_left == 0) return bucket.chosen;
  // At first in turn; later only the other is tried, as the chosen one's time is known.
  const bool first = bucket.num_steps < 2 * kTrials;
  return first ? 1 + bucket.num_steps % 2 : 3 - bucket.chosen;
}

void MicroBatchPolicy::record(const Measured& step) {
  if (setting_ != MicroBatches::automatic || step.num_tokens < 2) return;
  Bucket& bucket = bucket_of(step.num_tokens);
  double& smoothed = bucket.ns_per_token[static_cast<size_t>(step.num_micro_batches - 1)];
  const double now = static_cast<double>(step.step_ns) / static_cast<double>(step.num_tokens);
  smoothed =
      smoothed == 0 ? now : smoothed + kSmoothing * (std::min(now, kLargestJump * smoothed) - smoothed);
  ++bucket.num_steps;
  if (bucket.trials_left > 0) {
    if (--bucket.trials_left > 0) return;
    const double chosen = bucket.ns_per_token[static_cast<size_t>(bucket.chosen - 1)];
    const double other = bucket.ns_per_token[static_cast<size_t>(2 - bucket.chosen)];
    if (other < chosen * (1 - kMargin)) bucket.chosen = 3 - bucket.chosen;
  } else if (bucket.num_steps % kInterval == 0) {
    bucket.trials_left = kTrials;
  }
}

}  // namespace guildhall
