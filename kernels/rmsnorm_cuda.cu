// rmsnorm_cuda.cu: RMSNorm, the residual addition, and both in one pass. Short rows (heads) take a warp each,
// long ones a block.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/rmsnorm.h"

namespace guildhall {
namespace {

constexpr int kWide = 4;
constexpr int64_t kShortRow = 1024;
constexpr unsigned kThreads = 256;

// One row by `threads` threads, of which this is number `thread`. Every thread comes back to the elements
// that it has read itself, so that y may be x. kAdd: first residual += x, which then is the row that is
// normalised.
template <int N, bool kAdd, class Sum>
__device__ void normalise_row(const float* x, const float* weight_h, float eps, int64_t cols, float* residual,
                              float* y, int thread, int threads, Sum sum_over_row) {
  float sum = 0;
  for (int64_t i = int64_t{thread} * N; i < cols; i += int64_t{threads} * N) {
    Pack<float, N> a = load_pack<N>(x + i);
    if constexpr (kAdd) {
      const Pack<float, N> b = load_pack<N>(residual + i);
      for (int j = 0; j < N; ++j) a.v[j] = b.v[j] + a.v[j];
      store_pack(residual + i, a);
    }
    for (int j = 0; j < N; ++j) sum += a.v[j] * a.v[j];
  }
  const float inverse_rms = 1 / sqrtf(sum_over_row(sum) / static_cast<float>(cols) + eps);
  const float* row = kAdd ? residual : x;
  for (int64_t i = int64_t{thread} * N; i < cols; i += int64_t{threads} * N) {
    Pack<float, N> a = load_pack<N>(row + i);
    const Pack<float, N> w = load_pack<N>(weight_h + i);
    for (int j = 0; j < N; ++j) a.v[j] = a.v[j] * inverse_rms * w.v[j];
    store_pack(y + i, a);
  }
}

template <int N, bool kAdd>
__global__ void long_rows_kernel(View2<const float> x_th, const float* weight_h, float eps,
                                 View2<float> residual_th, View2<float> y_th) {
  const int64_t t = blockIdx.x;
  normalise_row<N, kAdd>(x_th.row(t), weight_h, eps, x_th.cols, residual_th.row(t), y_th.row(t),
                         static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
                         [](float sum) { return block_sum(sum); });
}

template <int N, bool kAdd>
__global__ void short_rows_kernel(View2<const float> x_th, const float* weight_h, float eps,
                                  View2<float> residual_th, View2<float> y_th) {
  const int64_t t = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  if (t >= x_th.rows) return;  // by whole warps
  normalise_row<N, kAdd>(x_th.row(t), weight_h, eps, x_th.cols, residual_th.row(t), y_th.row(t),
                         static_cast<int>(threadIdx.x) % kWarp, kWarp,
                         [](float sum) { return warp_sum(sum); });
}

template <int N, bool kAdd>
void run_rmsnorm(CudaStream stream, View2<const float> x_th, const float* weight_h, float eps,
                 View2<float> residual_th, View2<float> y_th) {
  const int64_t rows_per_block = x_th.cols <= kShortRow ? kThreads / kWarp : 1;
  const auto blocks = static_cast<unsigned>((x_th.rows + rows_per_block - 1) / rows_per_block);
  launch(x_th.cols <= kShortRow ? short_rows_kernel<N, kAdd> : long_rows_kernel<N, kAdd>, blocks, kThreads, 0,
         stream, x_th, weight_h, eps, residual_th, y_th);
}

template <int N>
__global__ void add_kernel(View2<const float> y_th, View2<float> x_th) {
  const float* y = y_th.row(blockIdx.x);
  float* x = x_th.row(blockIdx.x);
  for_packs(x_th.cols / N, [&](int64_t i) {
    const Pack<float, N> b = load_pack<N>(y + i * N);
    Pack<float, N> a = load_pack<N>(x + i * N);
    for (int j = 0; j < N; ++j) a.v[j] += b.v[j];
    store_pack(x + i * N, a);
  });
}

}  // namespace

void rmsnorm_cuda(CudaStream stream, View2<const float> x_th, std::span<const float> weight_h, float eps,
                  View2<float> y_th) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  GH_CHECK(static_cast<int64_t>(weight_h.size()) == x_th.cols);
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide =
      packs_fit<kWide>(x_th) && packs_fit<kWide>(y_th) && packs_fit<kWide>(weight_h.data(), x_th.cols);
  (wide ? run_rmsnorm<kWide, false> : run_rmsnorm<1, false>)(stream, x_th, weight_h.data(), eps, {}, y_th);
}

void add_rmsnorm_cuda(CudaStream stream, View2<const float> y_th, std::span<const float> weight_h, float eps,
                      View2<float> x_th, View2<float> normed_th) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  GH_CHECK(x_th.rows == normed_th.rows && x_th.cols == normed_th.cols);
  GH_CHECK(static_cast<int64_t>(weight_h.size()) == x_th.cols);
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide = packs_fit<kWide>(x_th) && packs_fit<kWide>(y_th) && packs_fit<kWide>(normed_th) &&
                    packs_fit<kWide>(weight_h.data(), x_th.cols);
  (wide ? run_rmsnorm<kWide, true> : run_rmsnorm<1, true>)(stream, y_th, weight_h.data(), eps, x_th,
                                                           normed_th);
}

void add_cuda(CudaStream stream, View2<const float> y_th, View2<float> x_th) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide = packs_fit<kWide>(x_th) && packs_fit<kWide>(y_th);
  const RowGrid g = row_grid(x_th.rows, x_th.cols / (wide ? kWide : 1));
  launch(wide ? add_kernel<kWide> : add_kernel<1>, g.grid, g.threads, 0, stream, y_th, x_th);
}

}  // namespace guildhall
