// linear_weights.h: points a LinearBlock at rows of a weight matrix.
#pragma once

#include "kernels/dtype.h"
#include "kernels/linear_block.h"

namespace guildhall {

static_assert(kScaleBlock == kFp8BlockSize);

// b.w becomes rows [n, n + num_n) of w.
inline void set_weights(LinearBlock& b, const WeightView& w, int64_t n, int64_t num_n) {
  b.w = w.row(n);
  b.element_bytes = dtype_bytes(w.dtype);
  b.num_n = num_n;
  b.k = w.cols;
  if (w.dtype != DType::e4m3) return;
  b.scale = w.scale_row(n);
  b.scale_stride = fp8_scale_stride(w.cols);
  b.scale_row = n % kFp8BlockSize;
}

}  // namespace guildhall
