// copy_cpu.cc: a copy, row by row.
#include "kernels/copy.h"

#include <algorithm>

#include "base/check.h"

namespace guildhall {

void copy_cpu(View3<const float> x_thd, View3<float> y_thd) {
  GH_CHECK(x_thd.dim0 == y_thd.dim0 && x_thd.dim1 == y_thd.dim1 && x_thd.dim2 == y_thd.dim2);
  for (int64_t t = 0; t < x_thd.dim0; ++t)
    for (int64_t h = 0; h < x_thd.dim1; ++h) std::copy_n(x_thd.at(t, h), x_thd.dim2, y_thd.at(t, h));
}

}  // namespace guildhall
