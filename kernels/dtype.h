// dtype.h: element types of weights and caches, and a weight matrix as kernels see it.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "kernels/cuda/host_device.h"

namespace guildhall {

enum class DType : uint8_t {
  f32,
  bf16,
  e4m3,  // fp8 codes with fp32 scales: of weights one per block of 128x128 (fp8.h); of the KV cache,
         // kv_codes.h
  int8,  // of the KV cache only: kv_codes.h
};

GH_HOST_DEVICE constexpr int64_t dtype_bytes(DType dtype) {
  return dtype == DType::f32 ? 4 : dtype == DType::bf16 ? 2 : 1;
}
constexpr std::string_view to_string(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : dtype == DType::e4m3 ? "e4m3" : "int8";
}

inline constexpr int64_t kFp8BlockSize = 128;
GH_HOST_DEVICE constexpr int64_t fp8_blocks(int64_t n) { return (n + kFp8BlockSize - 1) / kFp8BlockSize; }
// Floats from one row of blocks' scales to the next: whole fours, as cuBLASLt reads them (cuBLAS 13.1
// documentation, 3.1.4.5 "128-element 1D and 128x128 2D Block Scaling").
GH_HOST_DEVICE constexpr int64_t fp8_scale_stride(int64_t cols) { return (fp8_blocks(cols) + 3) / 4 * 4; }

// bfloat16: the upper half of an IEEE float32.
struct bf16 {
  uint16_t bits = 0;
};
GH_HOST_DEVICE inline float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
GH_HOST_DEVICE inline float to_float(float x) { return x; }
// Round to nearest even; NaN stays NaN.
GH_HOST_DEVICE inline bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// W [N,K], row-major as in the checkpoint (out, in); y = x Wᵀ. Borrowed. Rows are contiguous (stride K).
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;
  // e4m3: W[n,k] = fp32(code * scale_bb[n/128, k/128]), [fp8_blocks(N), fp8_scale_stride(K)]. Else null.
  const float* scale_bb = nullptr;

  GH_HOST_DEVICE bool empty() const { return data == nullptr; }
  GH_HOST_DEVICE const void* row(int64_t n) const {
    return static_cast<const char*>(data) + n * cols * dtype_bytes(dtype);
  }
  GH_HOST_DEVICE const float* scale_row(int64_t n) const {
    return scale_bb + n / kFp8BlockSize * fp8_scale_stride(cols);
  }
  // Of e4m3, `begin` is where a block begins.
  GH_HOST_DEVICE WeightView sub_rows(int64_t begin, int64_t n) const {
    return {row(begin), dtype, n, cols, scale_bb == nullptr ? nullptr : scale_row(begin)};
  }
};

}  // namespace guildhall
