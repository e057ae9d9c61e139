// combine_encoded.h: combine.h's sum over rows as they came off the wire (proto/exchange.h's codecs): decoded
// one token at a time, so that the fp32 rows never leave the cache. The same bits as decoding all rows first.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"
#include "proto/exchange.h"

namespace guildhall {

struct EncodedRow {
  const std::byte* row = nullptr;  // as encode_row() wrote it (row_codec.h); null contributes nothing
  Codec codec = Codec::f32;
  bool on_device = false;  // a device's memory, which the CPU may not read
};

// y_th[t] += sum over k of weight_tk[t,k] * row_tk[t,k], k = 0..K-1, fp32.
void combine_encoded_cpu(Team& team, View2<const EncodedRow> row_tk, View2<const float> weight_tk,
                         View2<float> y_th);
// Rows of one codec, wherever on the device they lie, 4-byte aligned (bf16: 2). `are_wide`: they, and their
// length, are multiples of 16 bytes. Without weights (no data) all are 1. The same bits.
void combine_encoded_cuda(CudaStream stream, Codec codec, View2<const std::byte* const> row_tk, bool are_wide,
                          View2<const float> weight_tk, View2<float> y_th);

}  // namespace guildhall
