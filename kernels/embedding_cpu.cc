// embedding_cpu.cc: table look-up, a row at a time; the same bits as embedding_ref.
#include <algorithm>

#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/embedding.h"

namespace guildhall {

void embedding_cpu(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) {
  GH_CHECK(x_th.cols == w_vh.cols && x_th.rows == static_cast<int64_t>(ids_t.size()));
  const auto num_cols = static_cast<size_t>(w_vh.cols);
  for (size_t t = 0; t < ids_t.size(); ++t) {
    GH_CHECK(ids_t[t] >= -1 && ids_t[t] < w_vh.rows);
    if (ids_t[t] < 0) {
      std::fill_n(x_th.row(t), num_cols, 0.0f);
      continue;
    }
    const void* row = w_vh.row(ids_t[t]);
    if (w_vh.dtype == DType::f32)
      std::copy_n(static_cast<const float*>(row), num_cols, x_th.row(t));
    else
      from_bf16_cpu({static_cast<const bf16*>(row), num_cols}, x_th.row(t));
  }
}

}  // namespace guildhall
