// convert.h: rows between fp32 and a wire or cache type. bf16: round to nearest even.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/dtype.h"
#include "kernels/view.h"

namespace guildhall {

void to_bf16_ref(std::span<const float> x, bf16* y);
void to_bf16_cpu(std::span<const float> x, bf16* y);
void from_bf16_ref(std::span<const bf16> x, float* y);
void from_bf16_cpu(std::span<const bf16> x, float* y);
// Row by row; the same bits.
void to_bf16_cuda(CudaStream stream, View2<const float> x_th, View2<bf16> y_th);
void from_bf16_cuda(CudaStream stream, View2<const bf16> x_th, View2<float> y_th);

}  // namespace guildhall
