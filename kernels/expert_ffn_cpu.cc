// expert_ffn_cpu.cc: two passes over the team, one task per (expert, part of its columns): first gate, up and
// SwiGLU into hidden, then down. A task holds one piece of gate at a time, so gate and up are never written
// out, and all of an expert's rows meet a weight while it is in the cache.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/expert_ffn.h"
#include "kernels/linear_plan.h"
#include "kernels/linear_weights.h"
#include "kernels/scratch.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void linear_block(const LinearBlock& b);
           void swiglu_n(const float* gate, const float* up, int64_t n, float* y);)

namespace {

// An expert that has rows, and where its tasks begin.
struct ActiveExpert {
  const ExpertWeightView* weights;
  int64_t row_begin, num_rows;
  int64_t first_task;
  LinearPlan plan;
};

// One task: rows of x (or hidden) and rows of a weight matrix.
struct Part {
  int64_t row_begin, num_rows, n_begin, num_n;
};

// Lays the tasks of one pass out over the active experts; returns how many there are.
template <class Shape>
int64_t lay_out(std::vector<ActiveExpert>& active, int num_threads, Shape shape) {
  int64_t num_tasks = 0;
  for (ActiveExpert& a : active) {
    a.plan = plan_linear(shape(a), num_threads, static_cast<int64_t>(active.size()));
    a.first_task = num_tasks;
    num_tasks += a.plan.num_tasks();
  }
  return num_tasks;
}

const ActiveExpert& owner_of(const std::vector<ActiveExpert>& active, int64_t task) {
  return *std::prev(std::upper_bound(active.begin(), active.end(), task,
                                     [](int64_t i, const ActiveExpert& a) { return i < a.first_task; }));
}

Part part_of(const ActiveExpert& a, int64_t task, int64_t num_n) {
  const int64_t i = task - a.first_task;
  const int64_t n = i % a.plan.n_parts * a.plan.n_rows, t = i / a.plan.n_parts * a.plan.t_rows;
  return {a.row_begin + t, std::min(a.plan.t_rows, a.num_rows - t), n, std::min(a.plan.n_rows, num_n - n)};
}

LinearBlock block_for(View2<const float> x, const WeightView& w, const Part& p, float* scratch) {
  LinearBlock block = {
      .x = x.row(p.row_begin), .x_stride = x.stride, .num_t = p.num_rows, .scratch = scratch};
  set_weights(block, w, p.n_begin, p.num_n);
  return block;
}

// hidden[rows, n] = silu(gate x) * up x for the part, one kBlockT x kBlockN piece at a time.
template <class RunBlock, class SwigluRow>
void gate_up_part(RunBlock run_block, SwigluRow swiglu_row, View2<const float> x_rh,
                  const ExpertWeightView& weights, const Part& part, View2<float> hidden_rf) {
  float* const scratch = thread_scratch(kLinearScratchFloats + kBlockT * kBlockN);
  float* const gate_piece = scratch + kLinearScratchFloats;
  for (int64_t r = 0; r < part.num_rows; r += kBlockT) {
    for (int64_t n = 0; n < part.num_n; n += kBlockN) {
      const Part piece = {part.row_begin + r, std::min(kBlockT, part.num_rows - r), part.n_begin + n,
                          std::min(kBlockN, part.num_n - n)};
      LinearBlock gate = block_for(x_rh, weights.gate_fh, piece, scratch);
      gate.y = gate_piece;
      gate.y_stride = kBlockN;
      run_block(gate);
      LinearBlock up = block_for(x_rh, weights.up_fh, piece, scratch);
      up.y = hidden_rf.row(piece.row_begin) + piece.n_begin;
      up.y_stride = hidden_rf.stride;
      run_block(up);
      for (int64_t i = 0; i < piece.num_rows; ++i) {
        float* const hidden = up.y + i * up.y_stride;
        swiglu_row(gate_piece + i * kBlockN, hidden, piece.num_n, hidden);
      }
    }
  }
}

}  // namespace

void expert_ffn_cpu(Team& team, View2<const float> x_rh, std::span<const int32_t> offset_e,
                    std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh) {
  GH_CHECK(offset_e.size() == experts.size() + 1 && offset_e.back() <= x_rh.rows);
  GH_CHECK(hidden_rf.rows >= offset_e.back() && y_rh.rows >= offset_e.back() && y_rh.cols == x_rh.cols);
  // Kept by the calling thread, so that a warmed-up step allocates nothing; members read it through `active`.
  thread_local std::vector<ActiveExpert> active_of_thread;
  std::vector<ActiveExpert>& active = active_of_thread;
  active.clear();
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t rows = offset_e[e + 1] - offset_e[e];
    if (rows == 0) continue;
    const ExpertWeightView& w = experts[e];
    GH_CHECK(w.gate_fh.cols == x_rh.cols && w.up_fh.cols == x_rh.cols && w.down_hf.rows == x_rh.cols);
    GH_CHECK(w.gate_fh.rows == hidden_rf.cols && w.up_fh.rows == hidden_rf.cols &&
             w.down_hf.cols == hidden_rf.cols);
    active.push_back({&w, offset_e[e], rows, 0, {}});
  }
  const auto run_block = GH_PICK(linear_block);
  const auto swiglu_row = GH_PICK(swiglu_n);
  const int64_t num_h = x_rh.cols, num_f = hidden_rf.cols;

  const int64_t gate_up_tasks = lay_out(active, team.num_threads(), [&](const ActiveExpert& a) {
    return LinearShape{a.num_rows, num_f, 2 * num_h};
  });
  team.parallel_for(gate_up_tasks, [&](int64_t task) {
    const ActiveExpert& a = owner_of(active, task);
    gate_up_part(run_block, swiglu_row, x_rh, *a.weights, part_of(a, task, num_f), hidden_rf);
  });

  const int64_t down_tasks = lay_out(active, team.num_threads(), [&](const ActiveExpert& a) {
    return LinearShape{a.num_rows, num_h, num_f};
  });
  team.parallel_for(down_tasks, [&](int64_t task) {
    const ActiveExpert& a = owner_of(active, task);
    const Part part = part_of(a, task, num_h);
    LinearBlock down = block_for(hidden_rf, a.weights->down_hf, part, thread_scratch(kLinearScratchFloats));
    down.y = y_rh.row(part.row_begin) + part.n_begin;
    down.y_stride = y_rh.stride;
    run_block(down);
  });
}

}  // namespace guildhall
