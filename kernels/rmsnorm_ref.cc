// rmsnorm_ref.cc: RMSNorm with a double sum, and the residual addition.
#include "kernels/rmsnorm.h"

#include <cmath>

namespace guildhall {

void rmsnorm_ref(View2<const float> x_th, std::span<const float> weight_h, float eps, View2<float> y_th) {
  for (int64_t t = 0; t < x_th.rows; ++t) {
    double sum = 0;
    for (int64_t h = 0; h < x_th.cols; ++h) sum += static_cast<double>(x_th(t, h)) * x_th(t, h);
    const double inverse_rms = 1 / std::sqrt(sum / static_cast<double>(x_th.cols) + eps);
    for (int64_t h = 0; h < x_th.cols; ++h)
      y_th(t, h) = static_cast<float>(x_th(t, h) * inverse_rms * weight_h[h]);
  }
}

void add_ref(View2<const float> y_th, View2<float> x_th) {
  for (int64_t t = 0; t < x_th.rows; ++t)
    for (int64_t h = 0; h < x_th.cols; ++h) x_th(t, h) += y_th(t, h);
}

}  // namespace guildhall
