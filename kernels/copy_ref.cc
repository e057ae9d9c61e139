// copy_ref.cc: a copy, one element at a time.
#include "kernels/copy.h"

namespace guildhall {

void copy_ref(View3<const float> x_thd, View3<float> y_thd) {
  for (int64_t t = 0; t < x_thd.dim0; ++t)
    for (int64_t h = 0; h < x_thd.dim1; ++h)
      for (int64_t d = 0; d < x_thd.dim2; ++d) y_thd.at(t, h)[d] = x_thd.at(t, h)[d];
}

}  // namespace guildhall
