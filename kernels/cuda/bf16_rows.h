// bf16_rows.h: rows of fp32 rounded to bf16 for the matrix library, padded so that each begins at 16 bytes.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/dtype.h"
#include "kernels/view.h"

namespace guildhall {

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

struct Bf16Rows {
  int64_t rows, stride;  // elements

  Bf16Rows(int64_t rows, int64_t cols) : rows(rows), stride((cols + 7) / 8 * 8) {}
  // Whole multiples of 256, so that what follows is as aligned as this.
  int64_t bytes() const { return (rows * stride * static_cast<int64_t>(sizeof(bf16)) + 255) / 256 * 256; }
};

// Row t * H + h of y is x[t,h]; x [T,H,K], layout.rows == T * H.
void convert_rows_cuda(CudaStream stream, View3<const float> x_thk, const Bf16Rows& layout, bf16* y);

}  // namespace guildhall
