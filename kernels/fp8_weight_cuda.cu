// fp8_weight_cuda.cu: block-scaled weights to bf16, a row per block or more. A pack never straddles two
// scales, as its size divides a scale's 128 columns.
#include "base/check.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/fp8_weight.h"

namespace guildhall {
namespace {

template <int N>
__global__ void dequantize_kernel(View2<const uint8_t> code_nk, View2<const float> scale_bb,
                                  View2<bf16> w_nk) {
  const int64_t n = blockIdx.x;
  const uint8_t* code = code_nk.row(n);
  const float* scale = scale_bb.row(n / kFp8BlockSize);
  bf16* w = w_nk.row(n);
  for_packs(w_nk.cols / N, [&](int64_t i) {
    const Pack<uint8_t, N> from = load_pack<N>(code + i * N);
    const float block_scale = scale[i * N / kFp8BlockSize];
    Pack<bf16, N> to;
    for (int j = 0; j < N; ++j) to.v[j] = to_bf16(from_e4m3(from.v[j], block_scale));
    store_pack(w + i * N, to);
  });
}

}  // namespace

void dequantize_fp8_weight_cuda(CudaStream stream, View2<const uint8_t> code_nk, View2<const float> scale_bb,
                                View2<bf16> w_nk) {
  constexpr int kWide = 8;
  GH_CHECK(w_nk.rows == code_nk.rows && w_nk.cols == code_nk.cols);
  GH_CHECK(scale_bb.rows == fp8_blocks(w_nk.rows) && scale_bb.cols == fp8_blocks(w_nk.cols));
  if (w_nk.rows == 0 || w_nk.cols == 0) return;
  const bool wide = packs_fit<kWide>(code_nk) && packs_fit<kWide>(w_nk);
  const RowGrid g = row_grid(w_nk.rows, w_nk.cols / (wide ? kWide : 1));
  launch(wide ? dequantize_kernel<kWide> : dequantize_kernel<1>, g.grid, g.threads, 0, stream, code_nk,
         scale_bb, w_nk);
}

}  // namespace guildhall
