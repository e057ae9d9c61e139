// row_codec_cuda.cu: lays a row's parts out as row_codec.cc does; the conversions are convert.h's and
// fp8.h's.
#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/copy.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/fp8.h"
#include "kernels/row_codec.h"

namespace guildhall {
namespace {

// Rows of T that begin at `first`, `stride_bytes` apart.
template <class T, class Byte>
View2<T> part(Byte* first, int64_t rows, int64_t cols, int64_t stride_bytes) {
  return {reinterpret_cast<T*>(first), rows, cols, stride_bytes / static_cast<int64_t>(sizeof(T))};
}

}  // namespace

void encode_rows_cuda(CudaStream stream, Codec codec, View2<const float> x_th, std::byte* rows) {
  const int64_t t = x_th.rows, h = x_th.cols;
  const auto stride = static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(h)));
  if (t == 0 || h == 0) return;
  switch (codec) {
    case Codec::f32:
      return copy_cuda(stream, {x_th.data, t, 1, h, x_th.stride, h},
                       {reinterpret_cast<float*>(rows), t, 1, h, h, h});
    case Codec::bf16:
      return to_bf16_cuda(stream, x_th, part<bf16>(rows, t, h, stride));
    case Codec::fp8: {
      const auto scales = static_cast<int64_t>(fp8_scales_offset(static_cast<uint64_t>(h)));
      if (scales > h)  // the zeros between codes and scales
        check_cuda(cudaMemsetAsync(rows, 0, static_cast<size_t>(t * stride), stream), "cudaMemsetAsync");
      return to_fp8_cuda(stream, x_th, part<uint8_t>(rows, t, h, stride),
                         part<float>(rows + scales, t, fp8_groups(h), stride));
    }
  }
}

void decode_rows_cuda(CudaStream stream, Codec codec, const std::byte* rows, View2<float> x_th) {
  const int64_t t = x_th.rows, h = x_th.cols;
  const auto stride = static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(h)));
  if (t == 0 || h == 0) return;
  switch (codec) {
    case Codec::f32:
      return copy_cuda(stream, {reinterpret_cast<const float*>(rows), t, 1, h, h, h},
                       {x_th.data, t, 1, h, x_th.stride, h});
    case Codec::bf16:
      return from_bf16_cuda(stream, part<const bf16>(rows, t, h, stride), x_th);
    case Codec::fp8: {
      const auto scales = static_cast<int64_t>(fp8_scales_offset(static_cast<uint64_t>(h)));
      return from_fp8_cuda(stream, part<const uint8_t>(rows, t, h, stride),
                           part<const float>(rows + scales, t, fp8_groups(h), stride), x_th);
    }
  }
}

}  // namespace guildhall
