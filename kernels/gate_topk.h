// gate_topk.h: pick K experts per token. logits [T,E]; outputs [T,K], best first; K <= E; ties: lowest
// expert.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

enum class GateScoring { softmax, sigmoid };    // sigmoid: DeepSeek-V3, GLM-4.5
enum class GroupScore { none, max, sum_top2 };  // max: DeepSeek-V2; sum_top2: DeepSeek-V3 (noaux_tc)

struct GateRule {
  GateScoring scoring = GateScoring::softmax;
  GroupScore group_score = GroupScore::none;
  int num_groups = 1, top_groups = 1;  // experts outside the best top_groups groups are masked with -inf
  bool normalize = false;              // weights /= (sum + 1e-20)
  float scale = 1;                     // then weights *= scale
};

// bias_e (empty: none) is added to the scores for choosing only; the weights are the unbiased scores.
// E % num_groups == 0.
void gate_topk_ref(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                   View2<int32_t> expert_tk, View2<float> weight_tk);
void gate_topk_cpu(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                   View2<int32_t> expert_tk, View2<float> weight_tk);
// E <= kMaxCudaGateExperts (a token's scores lie in one block's shared memory). A token's bits depend on its
// row only; scores are within 1e-6 of ref's, so that experts that close to each other may change places.
inline constexpr int64_t kMaxCudaGateExperts = 2048;
void gate_topk_cuda(CudaStream stream, View2<const float> logits_te, std::span<const float> bias_e,
                    const GateRule& rule, View2<int32_t> expert_tk, View2<float> weight_tk);

}  // namespace guildhall
