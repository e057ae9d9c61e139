// embedding_cuda.cu: table look-up, a row per block or more.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/embedding.h"

namespace guildhall {
namespace {

template <class T, int N>
__global__ void embedding_kernel(const int32_t* ids_t, const T* w_vh, View2<float> x_th) {
  const int32_t id = ids_t[blockIdx.x];
  const T* from = w_vh + int64_t{id} * x_th.cols;
  float* to = x_th.row(blockIdx.x);
  for_packs(x_th.cols / N, [&](int64_t i) {
    Pack<float, N> x{};
    if (id >= 0) {
      const Pack<T, N> w = load_pack<N>(from + i * N);
      for (int j = 0; j < N; ++j) x.v[j] = to_float(w.v[j]);
    }
    store_pack(to + i * N, x);
  });
}

template <class T>
void embed(CudaStream stream, std::span<const int32_t> ids_t, const T* w_vh, View2<float> x_th) {
  constexpr int kWide = 4;
  const auto run = [&](auto kernel, int width) {
    const RowGrid g = row_grid(static_cast<int64_t>(ids_t.size()), x_th.cols / width);
    launch(kernel, g.grid, g.threads, 0, stream, ids_t.data(), w_vh, x_th);
  };
  if (packs_fit<kWide>(x_th) && packs_fit<kWide>(w_vh, x_th.cols))
    run(embedding_kernel<T, kWide>, kWide);
  else
    run(embedding_kernel<T, 1>, 1);
}

}  // namespace

void embedding_cuda(CudaStream stream, std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) {
  GH_CHECK(static_cast<int64_t>(ids_t.size()) == x_th.rows && w_vh.cols == x_th.cols);
  if (ids_t.empty() || x_th.cols == 0) return;
  if (w_vh.dtype == DType::f32)
    embed(stream, ids_t, static_cast<const float*>(w_vh.data), x_th);
  else
    embed(stream, ids_t, static_cast<const bf16*>(w_vh.data), x_th);
}

}  // namespace guildhall
