// copy_cuda.cu: a copy, an outermost row per block or more.
#include "base/check.h"
#include "kernels/copy.h"
#include "kernels/cuda/rows.cuh"

namespace guildhall {
namespace {

template <int N>
__global__ void copy_kernel(View3<const float> x_thd, View3<float> y_thd) {
  const int64_t t = blockIdx.x;
  const auto packs_per_head = static_cast<int32_t>(x_thd.dim2 / N);
  for_packs(x_thd.dim1 * packs_per_head, [&](int64_t i) {
    const int64_t head = static_cast<int32_t>(i) / packs_per_head;
    const int64_t d = int64_t{static_cast<int32_t>(i) % packs_per_head} * N;
    store_pack(y_thd.at(t, head) + d, load_pack<N>(x_thd.at(t, head) + d));
  });
}

}  // namespace

void copy_cuda(CudaStream stream, View3<const float> x_thd, View3<float> y_thd) {
  constexpr int kWide = 4;
  GH_CHECK(x_thd.dim0 == y_thd.dim0 && x_thd.dim1 == y_thd.dim1 && x_thd.dim2 == y_thd.dim2);
  GH_CHECK(x_thd.dim1 * x_thd.dim2 <= INT32_MAX);
  if (x_thd.dim0 == 0 || x_thd.dim1 == 0 || x_thd.dim2 == 0) return;
  const bool wide = packs_fit<kWide>(x_thd) && packs_fit<kWide>(y_thd);
  const RowGrid g = row_grid(x_thd.dim0, x_thd.dim1 * x_thd.dim2 / (wide ? kWide : 1));
  launch(wide ? copy_kernel<kWide> : copy_kernel<1>, g.grid, g.threads, 0, stream, x_thd, y_thd);
}

}  // namespace guildhall
