#include "deploy/programs/plan_workspace.h"

#include <algorithm>

#include "router/forward.h"

namespace guildhall {
namespace {

constexpr int64_t kFloat = sizeof(float);

int64_t row(Codec codec, int64_t hidden) {
  return static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(hidden)));
}

// Floats per token that attention's buffers have.
int64_t attention_width(const ModelSpec& spec) {
  if (const auto* gqa = std::get_if<GqaSpec>(&spec.attention))
    return 2 * (gqa->num_heads + gqa->num_kv_heads) * gqa->head_dim;
  const auto& mla = std::get<MlaSpec>(spec.attention);
  const int64_t latent = mla.kv_lora_rank + mla.qk_rope_head_dim;
  const int64_t of_a_head =
      mla.qk_nope_head_dim + mla.qk_rope_head_dim + latent + mla.kv_lora_rank + mla.v_head_dim;
  return mla.num_heads * of_a_head + mla.q_lora_rank + latent;
}

// Frames of one token: its row to as many workers as it has choices, and what comes back.
int64_t frame_bytes(const ModelSpec& spec, const StepShape& step, int64_t copies, int64_t choices) {
  const int64_t answers = step.combine == Combine::exact ? choices : copies;
  return copies * row(step.codecs.dispatch, spec.hidden) +
         choices * static_cast<int64_t>(sizeof(DispatchPair)) +
         answers * row(step.codecs.combine, spec.hidden);
}

}  // namespace

int64_t router_workspace_bytes(const ModelShard& shard, const StepShape& step) {
  const ModelSpec& spec = shard.spec;
  const int64_t mlp = std::max(spec.dense_width, spec.moe.shared_width);
  const int64_t parts = shard.num_ranks > 1 ? 4 * spec.hidden : 0;  // two of each micro-batch
  const int64_t floats =
      3 * spec.hidden + 3 * mlp + spec.moe.num_experts + 2 * spec.moe.top_k + attention_width(spec) + parts;
  const int64_t logits = Forward::kLogitTile * shard.vocab_size * (shard.num_ranks > 1 ? 2 : 1);
  const int64_t frames =
      shard.rank == 0 ? frame_bytes(spec, step, spec.moe.top_k, spec.moe.top_k) : 0;  // it exchanges for all
  return (step.max_tokens * floats + logits) * kFloat + step.max_tokens * frames;
}

int64_t worker_workspace_bytes(const ModelSpec& spec, const StepShape& step, int64_t held,
                               int64_t num_routers) {
  const int64_t choices = std::min(spec.moe.top_k, held);
  if (choices == 0) return 0;
  const int64_t floats = spec.hidden + choices * (2 * spec.hidden + 2 * spec.moe.expert_width);
  return num_routers * step.max_tokens * (floats * kFloat + frame_bytes(spec, step, 1, choices));
}

}  // namespace guildhall
