// copy.h: y = x, of equal shapes; strides may differ, and the two may not overlap. Threads: the caller's
// only.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

void copy_ref(View3<const float> x_thd, View3<float> y_thd);
void copy_cpu(View3<const float> x_thd, View3<float> y_thd);
void copy_cuda(CudaStream stream, View3<const float> x_thd, View3<float> y_thd);

}  // namespace guildhall
