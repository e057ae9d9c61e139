// linear_block.h: the piece of a linear layer one task computes. Plain data, shared with the *_simd.cc files,
// so it has no functions (see simd.h on the one-definition rule).
#pragma once

#include <cstdint>

namespace guildhall {

// y[t,n] = sum over k of x[t,k] W[n,k], then + bias[n], then + y[t,n]. Strides in elements.
struct LinearBlock {
  const float* x = nullptr;  // [num_t, k]
  int64_t x_stride = 0;
  const void* w = nullptr;    // [num_n, k], rows contiguous
  int64_t element_bytes = 4;  // of w: 4 f32, 2 bf16, 1 e4m3
  // e4m3 only: one factor per 128x128, of the block that w's row 0 is row `scale_row` of (< 128), and on.
  const float* scale = nullptr;
  int64_t scale_stride = 0, scale_row = 0;
  const float* bias = nullptr;  // [num_n] or null
  bool accumulate = false;
  float* y = nullptr;  // [num_t, num_n]
  int64_t y_stride = 0;
  int64_t num_t = 0, num_n = 0, k = 0;
  float* scratch = nullptr;  // kLinearScratchFloats floats of this thread's, 64-byte aligned
};

inline constexpr int64_t kScaleBlock = 128;  // kFp8BlockSize

// Rows of x and of W that one packed block holds, and the elements of K at a time.
// Packed W (fp32) kBlockN x kBlockK = 264 KiB and the accumulators of kBlockT x kBlockN elements (16 lanes
// each) = 384 KiB; with the kBlockT x kBlockK piece of x (384 KiB) they fit a 2 MiB L2.
inline constexpr int64_t kBlockT = 96, kBlockN = 64, kBlockK = 1024;
// Rows of packed W are this much longer than kBlockK, so that they do not all map to the same cache set.
inline constexpr int64_t kPackedStride = kBlockK + 16;
inline constexpr int64_t kMaxLanes = 16, kMaxTileT = 6;
inline constexpr int64_t kLinearScratchFloats =
    (kBlockN + kMaxTileT) * kPackedStride + kBlockT * kBlockN * kMaxLanes;

}  // namespace guildhall
