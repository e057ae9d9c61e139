// fp8_weight.h: weight matrices whose elements are e4m3 codes (fp8.h) with one fp32 scale per block of
// 128x128, as DeepSeek-V3's checkpoints hold them (weight and weight_scale_inv; DeepSeek-V3 Technical
// Report, 3.3.2).
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/dtype.h"
#include "kernels/view.h"

namespace guildhall {

// w_nk[n,k] = bf16(code_nk[n,k] * scale_bb[n/128, k/128]), to nearest even; a NaN keeps its sign. scale_bb is
// [fp8_blocks(N), fp8_blocks(K)].
void dequantize_fp8_weight_ref(View2<const uint8_t> code_nk, View2<const float> scale_bb, View2<bf16> w_nk);
// The same bits.
void dequantize_fp8_weight_cuda(CudaStream stream, View2<const uint8_t> code_nk, View2<const float> scale_bb,
                                View2<bf16> w_nk);

}  // namespace guildhall
