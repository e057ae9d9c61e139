// swiglu_cpu.cc: rows shared out over the team.
#include <algorithm>

#include "base/check.h"
#include "kernels/simd_dispatch.h"
#include "kernels/swiglu.h"

namespace guildhall {

GH_PER_ISA(void swiglu_n(const float* gate, const float* up, int64_t n, float* y);)

void swiglu_cpu(Team& team, View2<const float> gate_up_t2f, View2<float> y_tf) {
  const int64_t num_f = y_tf.cols;
  GH_CHECK(gate_up_t2f.cols == 2 * num_f && gate_up_t2f.rows == y_tf.rows);
  const auto swiglu_n = GH_PICK(swiglu_n);
  // About 10 us of work, worth handing to another thread.
  constexpr int64_t kElementsPerTask = 16 * 1024;
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, num_f));
  team.parallel_for((y_tf.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
    const int64_t end = std::min(y_tf.rows, (task + 1) * rows_per_task);
    for (int64_t t = task * rows_per_task; t < end; ++t)
      swiglu_n(gate_up_t2f.row(t), gate_up_t2f.row(t) + num_f, num_f, y_tf.row(t));
  });
}

}  // namespace guildhall
