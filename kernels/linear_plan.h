// linear_plan.h: how a product is cut into tasks. The cut affects time only, never bits (linear_tile.h).
#pragma once

#include <algorithm>
#include <cstdint>

namespace guildhall {

// Below this many multiply-adds (each weight counted at least four times: reading it costs that much) a task
// does not repay handing it to another thread, half a microsecond.
inline constexpr int64_t kMinTaskWork = 128 * 1024;
// Tasks per thread: enough that a thread which is held up leaves its share to the others.
inline constexpr int64_t kTasksPerThread = 8;
// W is converted once per part, so a part takes many rows of x: this many at least where there are that many,
// and at least this many rows of W.
inline constexpr int64_t kMinPartT = 96, kMinPartN = 64;

struct LinearShape {
  int64_t num_t, num_n, k;
};

// A grid of tasks: task i computes rows of W from part i % n_parts and rows of x from part i / n_parts.
struct LinearPlan {
  int64_t n_rows, n_parts, t_rows, t_parts;

  int64_t num_tasks() const { return n_parts * t_parts; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// `siblings` products of about this size share the parallel_for.
inline LinearPlan plan_linear(const LinearShape& s, int num_threads, int64_t siblings) {
  if (s.num_t == 0 || s.num_n == 0) return {1, 0, 1, 0};
  if (num_threads == 1) return {s.num_n, 1, s.num_t, 1};
  const int64_t wanted = ceil_div(kTasksPerThread * num_threads, siblings);
  const int64_t t_parts = std::max<int64_t>(1, std::min(wanted, s.num_t / kMinPartT));
  const int64_t t_rows = ceil_div(s.num_t, t_parts);
  const int64_t work_per_n = std::max<int64_t>(s.k, 1) * std::max<int64_t>(t_rows, 4);
  const int64_t least_n = std::max(ceil_div(kMinTaskWork, work_per_n), t_parts > 1 ? kMinPartN : 4);
  const int64_t n_rows = round_up(std::max(least_n, ceil_div(s.num_n * t_parts, wanted)), 4);
  return {n_rows, ceil_div(s.num_n, n_rows), t_rows, ceil_div(s.num_t, t_rows)};
}

}  // namespace guildhall
