#include "router/swap_policy.h"

#include <algorithm>
#include <bit>

namespace guildhall {
namespace {

constexpr double kSmoothing = 0.2;    // weight of the newest time
constexpr double kLargestJump = 2.0;  // one that was disturbed counts as at most this much slower

void smooth(double& smoothed, int64_t ns, int64_t amount) {
  if (amount <= 0) return;
  const double now = std::max(1e-6, static_cast<double>(ns) / static_cast<double>(amount));
  smoothed =
      smoothed == 0 ? now : smoothed + kSmoothing * (std::min(now, kLargestJump * smoothed) - smoothed);
}

}  // namespace

size_t SwapPolicy::bucket_of(int64_t position) {
  const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position / kFirstEnd)));
  return std::min(bucket, kNumBuckets - 1);
}

// Of positions that no prompt has reached, the nearest measured ones before, or else after, speak.
double SwapPolicy::token_ns(size_t bucket) const {
  for (size_t b = bucket + 1; b-- > 0;)
    if (ns_per_token_b_[b] > 0) return ns_per_token_b_[b];
  for (size_t b = bucket + 1; b < kNumBuckets; ++b)
    if (ns_per_token_b_[b] > 0) return ns_per_token_b_[b];
  return 0;
}

double SwapPolicy::compute_ns(const Work& work) const {
  double sum = 0;
  const int64_t work_end = work.position + work.num_tokens;
  int64_t begin = 0, end = kFirstEnd;
  for (size_t b = 0; begin < work_end; ++b, begin = end, end *= 2) {
    const int64_t num_tokens = std::min(end, work_end) - std::max(begin, work.position);
    if (num_tokens > 0) sum += static_cast<double>(num_tokens) * token_ns(std::min(b, kNumBuckets - 1));
  }
  return sum;
}

double SwapPolicy::copy_ns(const Work& work) const {
  const auto [out, in] = ns_per_byte_;
  return static_cast<double>(work.bytes) * (out + (in > 0 ? in : out));
}

bool SwapPolicy::swaps(const Work& work) {
  if (setting_ != Preemption::measured) return setting_ == Preemption::swap;
  const double copy = copy_ns(work);
  if (copy > compute_ns(work) && ++num_recomputed_ < kInterval) return false;
  num_recomputed_ = 0;
  return true;
}

void SwapPolicy::record_copy(Direction direction, int64_t bytes, int64_t ns) {
  smooth(ns_per_byte_[static_cast<size_t>(direction)], ns, bytes);
}

void SwapPolicy::record_prefill(const Prefill& chunk) {
  smooth(ns_per_token_b_[bucket_of(chunk.position + chunk.num_tokens / 2)], chunk.ns, chunk.num_tokens);
}

}  // namespace guildhall
