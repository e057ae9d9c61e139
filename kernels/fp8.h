// fp8.h: a row of fp32 as e4m3 codes with one fp32 scale per 128 elements, and back.
// e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; largest 448, smallest 2^-9, no infinities, NaN 0x7f
// (OCP 8-bit Floating Point Specification, revision 1.0, format E4M3).
//
// For each group of 128 (the last may be shorter), amax being its largest finite |x|, 0 if there is none:
//   scale  = max(amax / 448, 2^-126)      so it is never 0, denormal or infinite
//   code_i = e4m3(x_i * (1 / scale))      to nearest even; what rounds beyond 448 becomes 448
//   x_i'   = code_i * scale
// An infinity or NaN becomes NaN of the same sign and leaves its group's scale alone; -0 stays -0. Elements
// below amax * 2^-19 or so become 0. A code depends on its group only, and every instruction set gives the
// same bytes.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

inline constexpr int64_t kFp8GroupSize = 128;
constexpr int64_t fp8_groups(int64_t n) { return (n + kFp8GroupSize - 1) / kFp8GroupSize; }

// code_n has x_n's size, scale_g fp8_groups(size) elements.
void to_fp8_ref(std::span<const float> x_n, std::span<uint8_t> code_n, std::span<float> scale_g);
void to_fp8_cpu(std::span<const float> x_n, std::span<uint8_t> code_n, std::span<float> scale_g);
void from_fp8_ref(std::span<const uint8_t> code_n, std::span<const float> scale_g, std::span<float> x_n);
void from_fp8_cpu(std::span<const uint8_t> code_n, std::span<const float> scale_g, std::span<float> x_n);
// Row by row, scale_tg [T, fp8_groups(H)]; the same bits.
void to_fp8_cuda(CudaStream stream, View2<const float> x_th, View2<uint8_t> code_th, View2<float> scale_tg);
// The same with scales group by group, scale_gt [fp8_groups(H), T], as matrix libraries read them.
void to_fp8_columns_cuda(CudaStream stream, View2<const float> x_th, View2<uint8_t> code_th,
                         View2<float> scale_gt);
void from_fp8_cuda(CudaStream stream, View2<const uint8_t> code_th, View2<const float> scale_tg,
                   View2<float> x_th);

}  // namespace guildhall
