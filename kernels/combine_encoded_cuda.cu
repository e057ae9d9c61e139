// combine_encoded_cuda.cu: combine_cuda.cu's sum over rows as they came off the wire, decoded where they are
// added: fp32 rows never reach the device's memory.
#include "base/check.h"
#include "kernels/combine_encoded.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/rows.cuh"

namespace guildhall {
namespace {

constexpr int kWide = 4;  // a group of fp8 is a multiple of it
static_assert(kFp8Group % kWide == 0);

// Elements [i, i + N) of a row.
template <Codec kCodec, int N>
__device__ Pack<float, N> decode_pack(const std::byte* row, int64_t scales_offset, int64_t i) {
  if constexpr (kCodec == Codec::f32) return load_pack<N>(reinterpret_cast<const float*>(row) + i);
  Pack<float, N> out;
  if constexpr (kCodec == Codec::bf16) {
    const Pack<bf16, N> half = load_pack<N>(reinterpret_cast<const bf16*>(row) + i);
    for (int j = 0; j < N; ++j) out.v[j] = to_float(half.v[j]);
  } else {
    const Pack<uint8_t, N> code = load_pack<N>(reinterpret_cast<const uint8_t*>(row) + i);
    const float scale = reinterpret_cast<const float*>(row + scales_offset)[i / kFp8Group];
    for (int j = 0; j < N; ++j) out.v[j] = from_e4m3(code.v[j], scale);
  }
  return out;
}

template <Codec kCodec, int N>
__global__ void combine_encoded_kernel(View2<const std::byte* const> row_tk, int64_t scales_offset,
                                       View2<const float> weight_tk, View2<float> y_th) {
  const int64_t t = blockIdx.x;
  float* y = y_th.row(t);
  for_packs(y_th.cols / N, [&](int64_t i) {
    Pack<float, N> sum{};
    for (int64_t k = 0; k < row_tk.cols; ++k) {
      const std::byte* encoded = row_tk(t, k);
      if (encoded == nullptr) continue;
      const Pack<float, N> row = decode_pack<kCodec, N>(encoded, scales_offset, i * N);
      const float weight = weight_tk.data == nullptr ? 1.0f : weight_tk(t, k);
      for (int j = 0; j < N; ++j) sum.v[j] = add_rounded(sum.v[j], mul_rounded(weight, row.v[j]));
    }
    Pack<float, N> out = load_pack<N>(y + i * N);
    for (int j = 0; j < N; ++j) out.v[j] = add_rounded(out.v[j], sum.v[j]);
    store_pack(y + i * N, out);
  });
}

template <Codec kCodec>
void run(CudaStream stream, View2<const std::byte* const> row_tk, bool are_wide, View2<const float> weight_tk,
         View2<float> y_th) {
  const auto scales_offset = static_cast<int64_t>(fp8_scales_offset(static_cast<uint64_t>(y_th.cols)));
  const bool wide = are_wide && packs_fit<kWide>(y_th);
  const RowGrid g = row_grid(y_th.rows, y_th.cols / (wide ? kWide : 1));
  launch(wide ? combine_encoded_kernel<kCodec, kWide> : combine_encoded_kernel<kCodec, 1>, g.grid, g.threads,
         0, stream, row_tk, scales_offset, weight_tk, y_th);
}

}  // namespace

void combine_encoded_cuda(CudaStream stream, Codec codec, View2<const std::byte* const> row_tk, bool are_wide,
                          View2<const float> weight_tk, View2<float> y_th) {
  GH_CHECK(row_tk.rows == y_th.rows);
  GH_CHECK(weight_tk.data == nullptr || (weight_tk.rows == y_th.rows && weight_tk.cols == row_tk.cols));
  if (y_th.rows == 0 || y_th.cols == 0) return;
  switch (codec) {
    case Codec::f32:
      return run<Codec::f32>(stream, row_tk, are_wide, weight_tk, y_th);
    case Codec::bf16:
      return run<Codec::bf16>(stream, row_tk, are_wide, weight_tk, y_th);
    case Codec::fp8:
      return run<Codec::fp8>(stream, row_tk, are_wide, weight_tk, y_th);
  }
}

}  // namespace guildhall
