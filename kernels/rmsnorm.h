// rmsnorm.h: y = x * rsqrt(mean(x^2) + eps) * w, row by row (Zhang & Sennrich 2019). y may alias x.
// The same op serves whole rows [T,H] and heads [T*heads,D] (Qwen3's q_norm/k_norm).
#pragma once

#include <span>

#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

void rmsnorm_ref(View2<const float> x_th, std::span<const float> weight_h, float eps, View2<float> y_th);
void rmsnorm_cpu(Team& team, View2<const float> x_th, std::span<const float> weight_h, float eps,
                 View2<float> y_th);

// x += y, element by element.
void add_ref(View2<const float> y_th, View2<float> x_th);
void add_cpu(Team& team, View2<const float> y_th, View2<float> x_th);

}  // namespace guildhall
