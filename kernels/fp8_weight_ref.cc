// fp8_weight_ref.cc: block-scaled weights, one element at a time.
#include "kernels/fp8_weight.h"

#include "base/check.h"
#include "kernels/fp8.h"

namespace guildhall {

void dequantize_fp8_weight_ref(View2<const uint8_t> code_nk, View2<const float> scale_bb, View2<bf16> w_nk) {
  GH_CHECK(w_nk.rows == code_nk.rows && w_nk.cols == code_nk.cols);
  GH_CHECK(scale_bb.rows == fp8_blocks(w_nk.rows) && scale_bb.cols == fp8_blocks(w_nk.cols));
  for (int64_t n = 0; n < w_nk.rows; ++n) {
    for (int64_t k = 0; k < w_nk.cols; ++k) {
      float w = 0;
      from_fp8_ref({&code_nk(n, k), 1}, {&scale_bb(n / kFp8BlockSize, k / kFp8BlockSize), 1}, {&w, 1});
      w_nk(n, k) = to_bf16(w);
    }
  }
}

}  // namespace guildhall
