// convert_cuda.cu: rows fp32 <-> bf16.
#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/cuda/rows.cuh"

namespace guildhall {
namespace {

constexpr int kWide = 8;  // 16 bytes of bf16

template <int N>
__global__ void to_bf16_kernel(View2<const float> x_th, View2<bf16> y_th) {
  const float* x = x_th.row(blockIdx.x);
  bf16* y = y_th.row(blockIdx.x);
  for_packs(x_th.cols / N, [&](int64_t i) {
    const Pack<float, N> from = load_pack<N>(x + i * N);
    Pack<bf16, N> to;
    for (int j = 0; j < N; ++j) to.v[j] = to_bf16(from.v[j]);
    store_pack(y + i * N, to);
  });
}

template <int N>
__global__ void from_bf16_kernel(View2<const bf16> x_th, View2<float> y_th) {
  const bf16* x = x_th.row(blockIdx.x);
  float* y = y_th.row(blockIdx.x);
  for_packs(x_th.cols / N, [&](int64_t i) {
    const Pack<bf16, N> from = load_pack<N>(x + i * N);
    Pack<float, N> to;
    for (int j = 0; j < N; ++j) to.v[j] = to_float(from.v[j]);
    store_pack(y + i * N, to);
  });
}

template <class From, class To>
void convert(CudaStream stream, View2<const From> x_th, View2<To> y_th,
             void (*wide_kernel)(View2<const From>, View2<To>),
             void (*kernel)(View2<const From>, View2<To>)) {
  GH_CHECK(x_th.rows == y_th.rows && x_th.cols == y_th.cols);
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide = packs_fit<kWide>(x_th) && packs_fit<kWide>(y_th);
  const RowGrid g = row_grid(x_th.rows, x_th.cols / (wide ? kWide : 1));
  launch(wide ? wide_kernel : kernel, g.grid, g.threads, 0, stream, x_th, y_th);
}

}  // namespace

void to_bf16_cuda(CudaStream stream, View2<const float> x_th, View2<bf16> y_th) {
  convert(stream, x_th, y_th, to_bf16_kernel<kWide>, to_bf16_kernel<1>);
}

void from_bf16_cuda(CudaStream stream, View2<const bf16> x_th, View2<float> y_th) {
  convert(stream, x_th, y_th, from_bf16_kernel<kWide>, from_bf16_kernel<1>);
}

}  // namespace guildhall
