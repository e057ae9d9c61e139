// linear.h: y_tn = x_tk Wᵀ (+ bias_n) (+ y_tn), fp32 accumulation; W [N,K] in f32, bf16 or e4m3.
// e4m3 on the CPU is of weights only: x stays fp32 and meets fp32(code * scale), whatever the checkpoint says
// of its activations.
// Row rule: each y element accumulates along K in one fixed order whatever T, N or the team's size is.
#pragma once

#include <span>

#include "kernels/dtype.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

class Blas;  // cuda/blas.h

struct LinearOptions {
  std::span<const float> bias_n = {};  // empty: none
  bool accumulate = false;             // y += instead of y =
};

// x.cols == w.cols == K, y.cols == w.rows == N, x.rows == y.rows == T (may be 0). y must not alias x.
void linear_ref(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options, View2<float> y_tn);
void linear_cpu(Team& team, View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
                View2<float> y_tn);
// bf16 and e4m3 weights: up to kFewRows rows by a kernel of ours that reads each weight once and takes x as
// two bf16 (16 bits of it); beyond that x is rounded to bf16 for the library, and e4m3 is as fp8_products.h
// says. Row rule: among few rows a row's bits do not depend on the others; beyond that they are the
// library's.
inline constexpr int64_t kFewRows = 8;
void linear_cuda(Blas& blas, View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
                 View2<float> y_tn);

// One linear per head: y[t,h,:] = W_h x[t,h,:], W_h = w_hnk rows [h*N, (h+1)*N), f32 or bf16. x [T,H,K],
// y [T,H,N]. (MLA's absorbed products.)
void linear_heads_ref(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn);
void linear_heads_cpu(Team& team, View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn);
void linear_heads_cuda(Blas& blas, View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn);

}  // namespace guildhall
