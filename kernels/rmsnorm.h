// rmsnorm.h: y = x * rsqrt(mean(x^2) + eps) * w, row by row (Zhang & Sennrich 2019). y may alias x.
// The same op serves whole rows [T,H] and heads [T*heads,D] (Qwen3's q_norm/k_norm).
#pragma once

#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

void rmsnorm_ref(View2<const float> x_th, std::span<const float> weight_h, float eps, View2<float> y_th);
void rmsnorm_cpu(Team& team, View2<const float> x_th, std::span<const float> weight_h, float eps,
                 View2<float> y_th);
// Sums in fp32, by the threads of a row in an order that its length alone decides: within 1e-6 of ref.
void rmsnorm_cuda(CudaStream stream, View2<const float> x_th, std::span<const float> weight_h, float eps,
                  View2<float> y_th);

// x += y, element by element.
void add_ref(View2<const float> y_th, View2<float> x_th);
void add_cpu(Team& team, View2<const float> y_th, View2<float> x_th);
void add_cuda(CudaStream stream, View2<const float> y_th, View2<float> x_th);

// x += y, then normed = rmsnorm(x): the bits of the two calls, with one pass less over memory. No aliases.
void add_rmsnorm_cuda(CudaStream stream, View2<const float> y_th, std::span<const float> weight_h, float eps,
                      View2<float> x_th, View2<float> normed_th);

}  // namespace guildhall
