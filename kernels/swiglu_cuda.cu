// swiglu_cuda.cu: y = gate / (1 + e^-gate) * up, a row per block or more.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/swiglu.h"

namespace guildhall {
namespace {

template <int N>
__global__ void swiglu_kernel(View2<const float> gate_up_t2f, View2<float> y_tf) {
  const float* gate = gate_up_t2f.row(blockIdx.x);
  const float* up = gate + y_tf.cols;
  float* y = y_tf.row(blockIdx.x);
  for_packs(y_tf.cols / N, [&](int64_t i) {
    const Pack<float, N> g = load_pack<N>(gate + i * N), u = load_pack<N>(up + i * N);
    Pack<float, N> out;
    for (int j = 0; j < N; ++j) out.v[j] = g.v[j] / (1 + expf(-g.v[j])) * u.v[j];
    store_pack(y + i * N, out);
  });
}

}  // namespace

void swiglu_cuda(CudaStream stream, View2<const float> gate_up_t2f, View2<float> y_tf) {
  constexpr int kWide = 4;
  GH_CHECK(gate_up_t2f.rows == y_tf.rows && gate_up_t2f.cols == 2 * y_tf.cols);
  if (y_tf.rows == 0 || y_tf.cols == 0) return;
  const bool wide = packs_fit<kWide>(y_tf) && packs_fit<kWide>(gate_up_t2f);
  const RowGrid g = row_grid(y_tf.rows, y_tf.cols / (wide ? kWide : 1));
  launch(wide ? swiglu_kernel<kWide> : swiglu_kernel<1>, g.grid, g.threads, 0, stream, gate_up_t2f, y_tf);
}

}  // namespace guildhall
