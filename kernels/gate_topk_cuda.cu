// gate_topk_cuda.cu: the gate, a warp per token; its scores and choices lie in shared memory.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cuda/choice.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/gate_topk.h"

namespace guildhall {
namespace {

constexpr int64_t kMaxWarps = 4;

// The best of choices[0, n), which is taken out. For a whole warp.
__device__ Choice take_best(Choice* choices, int64_t n, int lane) {
  Choice best = kNoChoice;
  for (int64_t i = lane; i < n; i += kWarp) best = max(best, choices[i]);
  best = warp_reduce(best, [](Choice a, Choice b) { return max(a, b); });
  if (index_of(best) % kWarp == lane) choices[index_of(best)] = kNoChoice;
  __syncwarp();
  return best;
}

__device__ void write_scores(const float* logits_e, int64_t num_experts, GateScoring scoring, int lane,
                             float* score_e) {
  if (scoring == GateScoring::sigmoid) {
    for (int64_t e = lane; e < num_experts; e += kWarp) score_e[e] = 1 / (1 + expf(-logits_e[e]));
    return;
  }
  float best = -INFINITY, sum = 0;
  for (int64_t e = lane; e < num_experts; e += kWarp) best = fmaxf(best, logits_e[e]);
  best = warp_max(best);
  for (int64_t e = lane; e < num_experts; e += kWarp) sum += score_e[e] = expf(logits_e[e] - best);
  sum = warp_sum(sum);
  for (int64_t e = lane; e < num_experts; e += kWarp) score_e[e] /= sum;
}

// Masks the experts outside the best groups.
__device__ void keep_top_groups(const GateRule& rule, int64_t num_experts, int lane, Choice* choice_e,
                                Choice* choice_g) {
  const int64_t group_size = num_experts / rule.num_groups;
  for (int g = 0; g < rule.num_groups; ++g) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t i = lane; i < group_size; i += kWarp) {
      const float value = value_of(choice_e[g * group_size + i]);
      second = fmaxf(second, fminf(first, value));
      first = fmaxf(first, value);
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const float other_first = __shfl_xor_sync(kFullWarp, first, lanes);
      const float other_second = __shfl_xor_sync(kFullWarp, second, lanes);
      second = fmaxf(fmaxf(second, other_second), fminf(first, other_first));
      first = fmaxf(first, other_first);
    }
    const bool add_second = rule.group_score == GroupScore::sum_top2 && group_size > 1;
    if (lane == 0) choice_g[g] = make_choice(add_second ? first + second : first, g);
  }
  __syncwarp();
  for (int i = 0; i < rule.top_groups; ++i) take_best(choice_g, rule.num_groups, lane);
  for (int64_t e = lane; e < num_experts; e += kWarp)
    if (choice_g[e / group_size] != kNoChoice) choice_e[e] = make_choice(-INFINITY, e);
}

__global__ void gate_topk_kernel(View2<const float> logits_te, const float* bias_e, GateRule rule,
                                 View2<int32_t> expert_tk, View2<float> weight_tk) {
  GH_DYNAMIC_SHARED(Choice, shared);  // per block: choices of experts, of groups; then scores
  const int64_t num_experts = logits_te.cols, warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const int64_t num_choices = num_experts + rule.num_groups;
  Choice* choice_e = shared + warp * num_choices;
  Choice* choice_g = choice_e + num_experts;
  float* score_e = reinterpret_cast<float*>(shared + warps * num_choices) + warp * num_experts;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t t = blockIdx.x * warps + warp;
  if (t >= logits_te.rows) return;  // by whole warps

  write_scores(logits_te.row(t), num_experts, rule.scoring, lane, score_e);
  for (int64_t e = lane; e < num_experts; e += kWarp) {
    const float choice = score_e[e] + (bias_e == nullptr ? 0.0f : bias_e[e]);
    choice_e[e] = make_choice(choice == choice ? choice : -INFINITY, e);
  }
  __syncwarp();
  if (rule.group_score != GroupScore::none) keep_top_groups(rule, num_experts, lane, choice_e, choice_g);
  __syncwarp();

  float sum = 0;  // the same in every lane
  for (int64_t k = 0; k < expert_tk.cols; ++k) {
    const int64_t e = index_of(take_best(choice_e, num_experts, lane));
    sum += score_e[e];
    if (k % kWarp != lane) continue;
    expert_tk(t, k) = static_cast<int32_t>(e);
    weight_tk(t, k) = score_e[e];
  }
  for (int64_t k = lane; k < expert_tk.cols; k += kWarp) {
    float weight = weight_tk(t, k);
    if (rule.normalize) weight /= sum + 1e-20f;
    weight_tk(t, k) = weight * rule.scale;
  }
}

}  // namespace

void gate_topk_cuda(CudaStream stream, View2<const float> logits_te, std::span<const float> bias_e,
                    const GateRule& rule, View2<int32_t> expert_tk, View2<float> weight_tk) {
  GH_CHECK(bias_e.empty() || static_cast<int64_t>(bias_e.size()) == logits_te.cols);
  GH_CHECK(expert_tk.rows == logits_te.rows && weight_tk.rows == logits_te.rows);
  GH_CHECK(expert_tk.cols == weight_tk.cols && expert_tk.cols <= logits_te.cols);
  GH_CHECK(rule.num_groups > 0 && rule.top_groups <= rule.num_groups &&
           logits_te.cols % rule.num_groups == 0);
  GH_CHECK(logits_te.cols <= kMaxCudaGateExperts);
  if (logits_te.rows == 0 || expert_tk.cols == 0) return;
  const int64_t bytes_per_warp =
      (logits_te.cols + rule.num_groups) * static_cast<int64_t>(sizeof(Choice)) + logits_te.cols * 4;
  const int64_t warps =
      std::clamp(static_cast<int64_t>(kDefaultDynamicShared) / bytes_per_warp, int64_t{1}, kMaxWarps);
  launch(gate_topk_kernel, static_cast<unsigned>((logits_te.rows + warps - 1) / warps),
         static_cast<unsigned>(warps * kWarp), static_cast<size_t>(warps * bytes_per_warp), stream, logits_te,
         bias_e.data(), rule, expert_tk, weight_tk);
}

}  // namespace guildhall
