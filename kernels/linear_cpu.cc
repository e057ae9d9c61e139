// linear_cpu.cc: checks, cuts the product into tasks and runs them in the instruction set in use.
#include "base/check.h"
#include "kernels/linear.h"
#include "kernels/linear_plan.h"
#include "kernels/linear_weights.h"
#include "kernels/scratch.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void linear_block(const LinearBlock& b);)

namespace {

// Part n_part, t_part of `whole` under `plan`; it multiplies rows of w from first_n on.
LinearBlock part_of(const LinearBlock& whole, const WeightView& w, int64_t first_n, const LinearPlan& plan,
                    int64_t task) {
  const int64_t n = task % plan.n_parts * plan.n_rows, t = task / plan.n_parts * plan.t_rows;
  LinearBlock part = whole;
  set_weights(part, w, first_n + n, std::min(plan.n_rows, whole.num_n - n));
  part.num_t = std::min(plan.t_rows, whole.num_t - t);
  part.x += t * whole.x_stride;
  part.y += t * whole.y_stride + n;
  if (part.bias != nullptr) part.bias += n;
  part.scratch = thread_scratch(kLinearScratchFloats);
  return part;
}

}  // namespace

void linear_cpu(Team& team, View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
                View2<float> y_tn) {
  GH_CHECK(x_tk.cols == w_nk.cols && y_tn.cols == w_nk.rows && x_tk.rows == y_tn.rows);
  GH_CHECK(options.bias_n.empty() || static_cast<int64_t>(options.bias_n.size()) == w_nk.rows);
  const auto run_block = GH_PICK(linear_block);
  const LinearBlock whole = {.x = x_tk.data,
                             .x_stride = x_tk.stride,
                             .bias = options.bias_n.empty() ? nullptr : options.bias_n.data(),
                             .accumulate = options.accumulate,
                             .y = y_tn.data,
                             .y_stride = y_tn.stride,
                             .num_t = x_tk.rows,
                             .num_n = w_nk.rows};
  const LinearPlan plan = plan_linear({x_tk.rows, w_nk.rows, w_nk.cols}, team.num_threads(), 1);
  team.parallel_for(plan.num_tasks(), [&](int64_t task) { run_block(part_of(whole, w_nk, 0, plan, task)); });
}

void linear_heads_cpu(Team& team, View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) {
  const int64_t num_heads = x_thk.dim1, num_n = y_thn.dim2, k = x_thk.dim2;
  GH_CHECK(y_thn.dim0 == x_thk.dim0 && y_thn.dim1 == num_heads && w_hnk.rows == num_heads * num_n &&
           w_hnk.cols == k && w_hnk.dtype != DType::e4m3);
  if (num_heads == 0) return;
  const auto run_block = GH_PICK(linear_block);
  const LinearPlan plan = plan_linear({x_thk.dim0, num_n, k}, team.num_threads(), num_heads);
  const int64_t per_head = plan.num_tasks();
  team.parallel_for(num_heads * per_head, [&](int64_t task) {
    const int64_t h = task / per_head;
    const LinearBlock whole = {.x = x_thk.at(0, h),
                               .x_stride = x_thk.stride0,
                               .y = y_thn.at(0, h),
                               .y_stride = y_thn.stride0,
                               .num_t = x_thk.dim0,
                               .num_n = num_n};
    run_block(part_of(whole, w_hnk, h * num_n, plan, task % per_head));
  });
}

}  // namespace guildhall
