// rmsnorm_cpu.cc: RMSNorm and the residual addition; rows are independent and shared among the team.
#include "kernels/rmsnorm.h"

#include "base/check.h"
#include "kernels/parallel_rows.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void rmsnorm_row(const float* x, const float* weight, float eps, int64_t n, float* y);
           void add_row(const float* y, int64_t n, float* x);)

void rmsnorm_cpu(Team& team, View2<const float> x_th, std::span<const float> weight_h, float eps,
                 View2<float> y_th) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  GH_CHECK(static_cast<int64_t>(weight_h.size()) == x_th.cols);
  const auto row = GH_PICK(rmsnorm_row);
  parallel_rows(team, x_th.rows, x_th.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(x_th.row(t), weight_h.data(), eps, x_th.cols, y_th.row(t));
  });
}

void add_cpu(Team& team, View2<const float> y_th, View2<float> x_th) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  const auto row = GH_PICK(add_row);
  parallel_rows(team, x_th.rows, x_th.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(y_th.row(t), x_th.cols, x_th.row(t));
  });
}

}  // namespace guildhall
