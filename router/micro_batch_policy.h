// micro_batch_policy.h: whether a step runs as one micro-batch or as two, from measured times. Two hide the
// wire and the experts behind attention, but halve the rows that share each weight: which is faster depends
// on model, network and batch, so both are tried and timed. Per bucket of step sizes the two are tried in
// turn a few times, then the faster is taken, and the other is tried again every now and then. Owner: the
// engine thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace guildhall {

enum class MicroBatches { automatic, one, two };

class MicroBatchPolicy {
 public:
  // Trials are what bounds the cost of choosing: of a bucket's first 2 * kTrials steps half may be slower
  // than need be, and then kTrials of every kInterval.
  static constexpr int kTrials = 4;
  static constexpr int kInterval = 256;
  // The other must be faster by this share to be taken: no flapping between equals.
  static constexpr double kMargin = 0.02;

  explicit MicroBatchPolicy(MicroBatches setting) : setting_(setting) {}

  // 1 or 2 for a step of that many tokens; never 2 for one token.
  int choose(int64_t num_tokens);

  struct Measured {
    int64_t num_tokens;
    int num_micro_batches;
    int64_t step_ns;  // of the forward pass
  };
  void record(const Measured& step);

 private:
  // Step sizes of one bucket differ by less than a quarter, so that their times per token compare.
  struct Bucket {
    std::array<double, 2> ns_per_token{};  // smoothed; of one and of two micro-batches
    int num_steps = 0;                     // recorded
    int chosen = 1;                        // between trials
    int trials_left = 2 * kTrials;
  };
  Bucket& bucket_of(int64_t num_tokens);

  const MicroBatches setting_;
  std::vector<Bucket> buckets_;
};

}  // namespace guildhall
