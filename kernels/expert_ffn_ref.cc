// expert_ffn_ref.cc: the definition: three linears and a SwiGLU per expert.
#include <vector>

#include "base/check.h"
#include "kernels/expert_ffn.h"
#include "kernels/linear.h"
#include "kernels/swiglu.h"

namespace guildhall {

void expert_ffn_ref(View2<const float> x_rh, std::span<const int32_t> offset_e,
                    std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh) {
  GH_CHECK(offset_e.size() == experts.size() + 1 && offset_e.back() <= x_rh.rows);
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t begin = offset_e[e], rows = offset_e[e + 1] - begin;
    if (rows == 0) continue;
    const int64_t num_f = experts[e].gate_fh.rows;
    std::vector<float> gate_up(static_cast<size_t>(rows * 2 * num_f));
    const View2<float> gate_up_r2f(gate_up.data(), rows, 2 * num_f);
    linear_ref(x_rh.sub_rows(begin, rows), experts[e].gate_fh, {}, gate_up_r2f.sub_cols(0, num_f));
    linear_ref(x_rh.sub_rows(begin, rows), experts[e].up_fh, {}, gate_up_r2f.sub_cols(num_f, num_f));
    swiglu_ref(gate_up_r2f, hidden_rf.sub_rows(begin, rows));
    linear_ref(hidden_rf.sub_rows(begin, rows), experts[e].down_hf, {}, y_rh.sub_rows(begin, rows));
  }
}

}  // namespace guildhall
