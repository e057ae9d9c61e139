// convert_ref.cc: fp32 <-> bf16, one element at a time.
#include "kernels/convert.h"

namespace guildhall {

void to_bf16_ref(std::span<const float> x, bf16* y) {
  for (size_t i = 0; i < x.size(); ++i) y[i] = to_bf16(x[i]);
}

void from_bf16_ref(std::span<const bf16> x, float* y) {
  for (size_t i = 0; i < x.size(); ++i) y[i] = to_float(x[i]);
}

}  // namespace guildhall
