// rounding.h: products and sums that are rounded one by one. CUDA's compiler fuses a * b + c into one
// rounding; where a contract promises the same bits everywhere, kernels write these.
#pragma once

#include "kernels/cuda/host_device.h"

namespace guildhall {

#ifdef __CUDA_ARCH__
GH_HOST_DEVICE inline float mul_rounded(float a, float b) { return __fmul_rn(a, b); }
GH_HOST_DEVICE inline float add_rounded(float a, float b) { return __fadd_rn(a, b); }
#else  // built with -ffp-contract=off
GH_HOST_DEVICE inline float mul_rounded(float a, float b) { return a * b; }
GH_HOST_DEVICE inline float add_rounded(float a, float b) { return a + b; }
#endif

}  // namespace guildhall
