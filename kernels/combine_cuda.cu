// combine_cuda.cu: the weighted sum of each token's expert rows, a token per block or more; combine_ref's
// bits.
#include "base/check.h"
#include "kernels/combine.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/rows.cuh"

namespace guildhall {
namespace {

// Rows are read a few at a time, so that their loads overlap, and added one by one.
constexpr int kRowsAtOnce = 4;

template <int N>
__device__ void add_rows(View2<const float> rows_ph, const int32_t* index_k, const float* weight_k,
                         int64_t num_k, int64_t column, Pack<float, N>& sum) {
  Pack<float, N> row[kRowsAtOnce];
  int32_t index[kRowsAtOnce];
  for (int k = 0; k < kRowsAtOnce; ++k) {
    index[k] = k < num_k ? index_k[k] : -1;
    if (index[k] >= 0) row[k] = load_pack<N>(rows_ph.row(index[k]) + column);
  }
  for (int k = 0; k < kRowsAtOnce; ++k) {
    if (index[k] < 0) continue;
    for (int j = 0; j < N; ++j) sum.v[j] = add_rounded(sum.v[j], mul_rounded(weight_k[k], row[k].v[j]));
  }
}

template <int N>
__global__ void combine_kernel(View2<const float> rows_ph, View2<const int32_t> index_tk,
                               View2<const float> weight_tk, View2<float> y_th) {
  const int32_t* index_k = index_tk.row(blockIdx.x);
  const float* weight_k = weight_tk.row(blockIdx.x);
  float* y = y_th.row(blockIdx.x);
  for_packs(y_th.cols / N, [&](int64_t i) {
    Pack<float, N> sum{};
    for (int64_t k = 0; k < index_tk.cols; k += kRowsAtOnce)
      add_rows(rows_ph, index_k + k, weight_k + k, index_tk.cols - k, i * N, sum);
    Pack<float, N> out = load_pack<N>(y + i * N);
    for (int j = 0; j < N; ++j) out.v[j] = add_rounded(out.v[j], sum.v[j]);
    store_pack(y + i * N, out);
  });
}

}  // namespace

void combine_cuda(CudaStream stream, View2<const float> rows_ph, View2<const int32_t> index_tk,
                  View2<const float> weight_tk, View2<float> y_th) {
  constexpr int kWide = 4;
  GH_CHECK(index_tk.rows == y_th.rows && weight_tk.rows == y_th.rows && weight_tk.cols == index_tk.cols);
  GH_CHECK(rows_ph.rows == 0 || rows_ph.cols == y_th.cols);
  if (y_th.rows == 0 || y_th.cols == 0) return;
  const bool wide = packs_fit<kWide>(y_th) && (rows_ph.rows == 0 || packs_fit<kWide>(rows_ph));
  const RowGrid g = row_grid(y_th.rows, y_th.cols / (wide ? kWide : 1));
  launch(wide ? combine_kernel<kWide> : combine_kernel<1>, g.grid, g.threads, 0, stream, rows_ph, index_tk,
         weight_tk, y_th);
}

}  // namespace guildhall
