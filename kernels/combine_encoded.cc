#include "kernels/combine_encoded.h"

#include "base/check.h"
#include "kernels/combine.h"
#include "kernels/parallel_rows.h"
#include "kernels/row_codec.h"
#include "kernels/scratch.h"

namespace guildhall {
namespace {

void combine_token(const EncodedRow* row_k, View2<const float> weight_1k, View2<float> y_1h) {
  const int64_t num_k = weight_1k.cols, hidden = y_1h.cols;
  float* const rows = thread_scratch(num_k * hidden);
  int32_t index_k[kMaxTopK];
  for (int64_t k = 0; k < num_k; ++k) {
    index_k[k] = row_k[k].row ? static_cast<int32_t>(k) : -1;
    if (row_k[k].row)
      decode_row(row_k[k].codec, row_k[k].row, {rows + k * hidden, static_cast<size_t>(hidden)});
  }
  combine_cpu({rows, num_k, hidden}, {index_k, 1, num_k}, weight_1k, y_1h);
}

}  // namespace

void combine_encoded_cpu(Team& team, View2<const EncodedRow> row_tk, View2<const float> weight_tk,
                         View2<float> y_th) {
  GH_CHECK(row_tk.rows == y_th.rows && weight_tk.rows == y_th.rows && weight_tk.cols == row_tk.cols);
  GH_CHECK(row_tk.cols <= kMaxTopK);
  parallel_rows(team, y_th.rows, row_tk.cols * y_th.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      combine_token(row_tk.row(t), weight_tk.sub_rows(t, 1), y_th.sub_rows(t, 1));
  });
}

}  // namespace guildhall
