// expert_ffn.h: y = down(silu(gate x) * up x) for rows already grouped by expert (SwiGLU; Shazeer 2020).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/dtype.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

class Blas;  // cuda/blas.h

// One expert's weights, borrowed. Shapes [F,H], [F,H], [H,F]; all of one dtype.
struct ExpertWeightView {
  WeightView gate_fh, up_fh, down_hf;
};

// Rows [offset_e[e], offset_e[e+1]) of x_rh go through experts[e]; experts with no rows are not read.
// hidden_rf is scratch [R,F] (fp32). Row rule as linear.h. y_rh must not alias x_rh.
void expert_ffn_ref(View2<const float> x_rh, std::span<const int32_t> offset_e,
                    std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh);
void expert_ffn_cpu(Team& team, View2<const float> x_rh, std::span<const int32_t> offset_e,
                    std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh);
// offset_e and the list of experts are the host's. Rounding and row rule as linear_cuda, where few are as
// many as kFewExpertRows for every expert (of e4m3: for that expert).
inline constexpr int64_t kFewExpertRows = 32;
void expert_ffn_cuda(Blas& blas, View2<const float> x_rh, std::span<const int32_t> offset_e,
                     std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh);

}  // namespace guildhall
