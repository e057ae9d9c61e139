// kv_codes.h: a row of the KV cache in 8 bits (kv_pages.h). Its elements are cut into groups of 128, the last
// may be shorter; each group has an fp32 scale. With amax the group's largest |x| and L the largest code, 448
// of e4m3 (fp8.h) and 127 of int8:
//   scale  = max(amax / L, 2^-126)      so it is never 0, denormal or infinite
//   code_i = code nearest to x_i * (1 / scale), ties to even, of size L at most
//   x_i'   = code_i * scale
// A group with an infinity or a NaN in it has scale NaN and codes 0: who attends to the token gets NaN, as
// from an f32 cache. A code depends on its group only, and every instruction set and device gives the same
// bytes.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kv_pages.h"

namespace guildhall {

// code_n has x_n's size, scale_g a scale for each 128 begun.
void to_kv_codes_ref(DType dtype, std::span<const float> x_n, std::span<uint8_t> code_n,
                     std::span<float> scale_g);
void to_kv_codes_cpu(DType dtype, std::span<const float> x_n, std::span<uint8_t> code_n,
                     std::span<float> scale_g);
void from_kv_codes_ref(DType dtype, std::span<const uint8_t> code_n, std::span<const float> scale_g,
                       std::span<float> x_n);

}  // namespace guildhall
