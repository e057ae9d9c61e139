// convert.h: rows between fp32 and a wire or cache type. bf16: round to nearest even.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/dtype.h"

namespace guildhall {

void to_bf16_ref(std::span<const float> x, bf16* y);
void to_bf16_cpu(std::span<const float> x, bf16* y);
void from_bf16_ref(std::span<const bf16> x, float* y);
void from_bf16_cpu(std::span<const bf16> x, float* y);

}  // namespace guildhall
