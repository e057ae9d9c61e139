// combine_ref.cc: the weighted sum of a token's expert rows, element by element. Each product is rounded,
// then added (no fusing), so that every instruction set gives these bits.
#include "kernels/combine.h"

namespace guildhall {

void combine_ref(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
                 View2<float> y_th) {
  for (int64_t t = 0; t < y_th.rows; ++t) {
    for (int64_t h = 0; h < y_th.cols; ++h) {
      float sum = 0;
      for (int64_t k = 0; k < index_tk.cols; ++k)
        if (index_tk(t, k) >= 0) sum += weight_tk(t, k) * rows_ph(index_tk(t, k), h);
      y_th(t, h) += sum;
    }
  }
}

}  // namespace guildhall
