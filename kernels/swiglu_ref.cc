// swiglu_ref.cc: the definition of SwiGLU, in double and rounded once.
#include <cmath>

#include "base/check.h"
#include "kernels/swiglu.h"

namespace guildhall {

void swiglu_ref(View2<const float> gate_up_t2f, View2<float> y_tf) {
  const int64_t num_f = y_tf.cols;
  GH_CHECK(gate_up_t2f.cols == 2 * num_f && gate_up_t2f.rows == y_tf.rows);
  for (int64_t t = 0; t < y_tf.rows; ++t) {
    for (int64_t f = 0; f < num_f; ++f) {
      const double gate = gate_up_t2f(t, f), up = gate_up_t2f(t, num_f + f);
      y_tf(t, f) = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
    }
  }
}

}  // namespace guildhall
