// swap_policy.h: whether pages are kept elsewhere (a preempted sequence's in host memory; cold ones' in a
// file) and copied back, or computed again, from measured times. Copying takes time by the byte; computing by
// the token, and more for tokens that stand further back, as attention grows: so short contexts may be
// cheaper to compute and long ones to copy. Owner: the engine thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace guildhall {

enum class Preemption { measured, recompute, swap };

class SwapPolicy {
 public:
  // Copies are timed only when they happen: after so many decisions for computing in a row, one goes the
  // other way.
  static constexpr int kInterval = 32;

  explicit SwapPolicy(Preemption setting) : setting_(setting) {}

  struct Work {
    int64_t num_tokens = 0;
    int64_t bytes = 0;     // of their pages
    int64_t position = 0;  // of the first token
  };
  // Whether copying out (where that is measured) and back in is expected to take less time than computing.
  // Without a copy measured: true, to measure one.
  bool swaps(const Work& work);
  // What the two are expected to take; 0: not measured.
  double copy_ns(const Work& work) const;
  double compute_ns(const Work& work) const;

  enum class Direction { out, in };
  void record_copy(Direction direction, int64_t bytes, int64_t ns);
  struct Prefill {
    int64_t position = 0;  // of its first token
    int64_t num_tokens = 0;
    int64_t ns = 0;
  };
  void record_prefill(const Prefill& chunk);

 private:
  // Positions [0, 128), then doubling: [128, 256), [256, 512) ...
  static constexpr int64_t kFirstEnd = 128;
  static constexpr size_t kNumBuckets = 18;  // beyond 2^24 positions, the last serves
  static size_t bucket_of(int64_t position);
  double token_ns(size_t bucket) const;

  const Preemption setting_;
  std::array<double, 2> ns_per_byte_{};               // by Direction; smoothed, 0: not measured
  std::array<double, kNumBuckets> ns_per_token_b_{};  // likewise
  int num_recomputed_ = 0;                            // decisions in a row
};

}  // namespace guildhall
