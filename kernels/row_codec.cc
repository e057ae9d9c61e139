// row_codec.cc: lays a row's parts out; the conversions themselves are convert.h's and fp8.h's.
#include "kernels/row_codec.h"

#include <cstring>

#include "kernels/convert.h"
#include "kernels/fp8.h"

namespace guildhall {

static_assert(kFp8GroupSize == kFp8Group);

void encode_row(Codec codec, std::span<const float> x_h, std::byte* row) {
  switch (codec) {
    case Codec::f32:
      if (!x_h.empty()) std::memcpy(row, x_h.data(), x_h.size_bytes());
      return;
    case Codec::bf16:
      return to_bf16_cpu(x_h, reinterpret_cast<bf16*>(row));
    case Codec::fp8: {
      const size_t scales_offset = fp8_scales_offset(x_h.size());
      std::memset(row + x_h.size(), 0, scales_offset - x_h.size());
      return to_fp8_cpu(x_h, {reinterpret_cast<uint8_t*>(row), x_h.size()},
                        {reinterpret_cast<float*>(row + scales_offset),
                         static_cast<size_t>(fp8_groups(static_cast<int64_t>(x_h.size())))});
    }
  }
}

void decode_row(Codec codec, const std::byte* row, std::span<float> x_h) {
  switch (codec) {
    case Codec::f32:
      if (!x_h.empty()) std::memcpy(x_h.data(), row, x_h.size_bytes());
      return;
    case Codec::bf16:
      return from_bf16_cpu({reinterpret_cast<const bf16*>(row), x_h.size()}, x_h.data());
    case Codec::fp8:
      return from_fp8_cpu({reinterpret_cast<const uint8_t*>(row), x_h.size()},
                          {reinterpret_cast<const float*>(row + fp8_scales_offset(x_h.size())),
                           static_cast<size_t>(fp8_groups(static_cast<int64_t>(x_h.size())))},
                          x_h);
  }
}

}  // namespace guildhall
