#include "kernels/cuda/bf16_rows.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"

namespace guildhall {
namespace {

__global__ void convert_rows_kernel(View3<const float> x_thk, bf16* y, int64_t y_stride) {
  const int64_t row = blockIdx.x;
  const float* x = x_thk.at(row / x_thk.dim1, row % x_thk.dim1);
  for (int64_t k = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; k < x_thk.dim2;
       k += int64_t{gridDim.y} * blockDim.x)
    y[row * y_stride + k] = to_bf16(x[k]);
}

}  // namespace

void convert_rows_cuda(CudaStream stream, View3<const float> x_thk, const Bf16Rows& layout, bf16* y) {
  GH_CHECK(layout.rows == x_thk.dim0 * x_thk.dim1 && layout.stride >= x_thk.dim2);
  if (layout.rows == 0 || x_thk.dim2 == 0) return;
  const dim3 grid(static_cast<unsigned>(layout.rows),
                  static_cast<unsigned>(std::clamp<int64_t>(x_thk.dim2 / 1024, 1, 8)));
  launch(convert_rows_kernel, grid, 256, 0, stream, x_thk, y, layout.stride);
}

}  // namespace guildhall
