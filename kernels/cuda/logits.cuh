// logits.cuh: how a block reads a row of logits: every thread its share, several loads at a time.
#pragma once

#include <cmath>

#include "kernels/cuda/choice.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace guildhall {

inline constexpr int kLogitThreads = 1024;  // of a block
inline constexpr int kLogitsAtOnce = 8;     // that a thread loads together: their latencies overlap

// body(logit, v) for this thread's share of a row, in ascending v: v % kLogitThreads is the thread.
template <class Body>
__device__ void for_logits(const float* logits_v, int64_t size, Body body) {
  for (int64_t first = threadIdx.x; first < size; first += kLogitsAtOnce * kLogitThreads) {
    float logit[kLogitsAtOnce];
    for (int i = 0; i < kLogitsAtOnce; ++i)
      if (first + i * kLogitThreads < size) logit[i] = logits_v[first + i * kLogitThreads];
    for (int i = 0; i < kLogitsAtOnce; ++i)
      if (first + i * kLogitThreads < size) body(logit[i], first + i * kLogitThreads);
  }
}

// A NaN counts as -inf.
__device__ inline Choice logit_choice(float logit, int64_t v) {
  return make_choice(logit == logit ? logit : -INFINITY, v);
}

// The best of this thread's share.
__device__ inline Choice best_of_share(const float* logits_v, int64_t size) {
  Choice best = kNoChoice;
  for_logits(logits_v, size, [&](float logit, int64_t v) { best = max(best, logit_choice(logit, v)); });
  return best;
}

__device__ inline Choice block_best(Choice mine) {
  return block_reduce(mine, kNoChoice, [](Choice a, Choice b) { return max(a, b); });
}

}  // namespace guildhall
