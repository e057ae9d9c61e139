// embedding_ref.cc: table look-up, one element at a time.
#include "kernels/embedding.h"

namespace guildhall {

void embedding_ref(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) {
  for (size_t t = 0; t < ids_t.size(); ++t) {
    for (int64_t h = 0; h < w_vh.cols; ++h) {
      if (ids_t[t] < 0) {
        x_th(t, h) = 0;
        continue;
      }
      const void* row = w_vh.row(ids_t[t]);
      x_th(t, h) = w_vh.dtype == DType::f32 ? static_cast<const float*>(row)[h]
                                            : to_float(static_cast<const bf16*>(row)[h]);
    }
  }
}

}  // namespace guildhall
