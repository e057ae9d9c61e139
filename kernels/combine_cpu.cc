// combine_cpu.cc: the weighted sum of each token's expert rows; combine_ref's bits in every instruction set.
#include "kernels/combine.h"

#include "base/check.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void combine_token(const float* rows, int64_t row_stride, const int32_t* index_k,
                              const float* weight_k, int64_t num_k, int64_t n, float* y);)

void combine_cpu(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
                 View2<float> y_th) {
  GH_CHECK(index_tk.rows == y_th.rows && weight_tk.rows == y_th.rows && weight_tk.cols == index_tk.cols);
  GH_CHECK(rows_ph.rows == 0 || rows_ph.cols == y_th.cols);
  const auto combine = GH_PICK(combine_token);
  for (int64_t t = 0; t < y_th.rows; ++t)
    combine(rows_ph.data, rows_ph.stride, index_tk.row(t), weight_tk.row(t), index_tk.cols, y_th.cols,
            y_th.row(t));
}

}  // namespace guildhall
