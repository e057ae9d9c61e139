// row_codec.h: a row of hidden states between fp32 and its bytes in a frame (proto/exchange.h, WIRE.md §1.5).
// Every row is converted by itself, so its bytes depend on that row only.
//   f32: elements.  bf16: elements, to nearest even.  fp8: codes, zeros to a multiple of 4, scales (fp8.h).
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"
#include "proto/exchange.h"

namespace guildhall {

// `row` is row_bytes(codec, x_h.size()) long and 4-byte aligned (bf16: 2).
void encode_row(Codec codec, std::span<const float> x_h, std::byte* row);
void decode_row(Codec codec, const std::byte* row, std::span<float> x_h);
// Rows one behind another, as they lie in a frame; 4-byte aligned. The same bytes, and the same bits back.
void encode_rows_cuda(CudaStream stream, Codec codec, View2<const float> x_th, std::byte* rows);
void decode_rows_cuda(CudaStream stream, Codec codec, const std::byte* rows, View2<float> x_th);

}  // namespace guildhall
