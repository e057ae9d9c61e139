// deepseek_v3.cc: DeepSeek-V3/R1 (DeepSeek-AI 2024): latent attention, grouped sigmoid gate, shared experts.
#include <fmt/format.h>

#include <cmath>

#include "model/families/family.h"

namespace guildhall {
namespace {

Result<void> read_mla(const JsonObject& config, ModelSpec& spec) {
  MlaSpec mla;
  GH_ASSIGN(mla.num_heads, config.integer("num_attention_heads", kHeadsRange));
  GH_ASSIGN(mla.q_lora_rank, config.integer_or("q_lora_rank", 0, kRankRange));
  GH_ASSIGN(mla.kv_lora_rank, config.integer("kv_lora_rank", kRankRange));
  GH_ASSIGN(mla.qk_nope_head_dim, config.integer("qk_nope_head_dim", kHeadDimRange));
  GH_ASSIGN(mla.qk_rope_head_dim, config.integer("qk_rope_head_dim", kHeadDimRange));
  GH_ASSIGN(mla.v_head_dim, config.integer("v_head_dim", kHeadDimRange));
  GH_ASSIGN(mla.attention_bias, config.boolean_or("attention_bias", false));
  GH_TRY(check_even(config, "qk_rope_head_dim", mla.qk_rope_head_dim));

  GH_ASSIGN(const RopeConfig rope, read_rope(config, mla.qk_rope_head_dim, spec.max_position));
  spec.rope = rope.params;
  GH_ASSIGN(const bool interleave, config.boolean_or("rope_interleave", true));
  spec.rope_pairing = interleave ? RopePairing::interleaved : RopePairing::half;

  double scale = 1 / std::sqrt(static_cast<double>(mla.qk_nope_head_dim + mla.qk_rope_head_dim));
  if (rope.params.scaling == RopeScaling::yarn && rope.mscale_all_dim != 0) {
    const double m = yarn_mscale(rope.params.factor, rope.mscale_all_dim);
    scale *= m * m;
  }
  mla.scale = static_cast<float>(scale);
  spec.attention = mla;
  return {};
}

// n_group and topk_group limit each token's experts to the best groups.
Result<void> read_groups(const JsonObject& config, MoeSpec& moe) {
  GH_ASSIGN(const int64_t num_groups, config.integer_or("n_group", 8, kExpertsRange));
  GH_ASSIGN(const int64_t top_groups, config.integer_or("topk_group", 4, kExpertsRange));
  if (moe.num_experts % num_groups != 0)
    return config.error(Code::invalid_argument, "n_group",
                        fmt::format("{} does not divide n_routed_experts {}", num_groups, moe.num_experts));
  if (top_groups > num_groups)
    return config.error(Code::invalid_argument, "topk_group",
                        fmt::format("{} exceeds n_group {}", top_groups, num_groups));
  const int64_t group_size = moe.num_experts / num_groups;
  if (num_groups > 1 && group_size < 2)
    return config.error(Code::invalid_argument, "n_group",
                        fmt::format("{} leaves one expert per group; a group's score needs two", num_groups));
  if (moe.top_k > top_groups * group_size)
    return config.error(Code::invalid_argument, "num_experts_per_tok",
                        fmt::format("{} exceeds the {} experts of {} groups", moe.top_k,
                                    top_groups * group_size, top_groups));
  moe.gate.num_groups = static_cast<int>(num_groups);
  moe.gate.top_groups = static_cast<int>(top_groups);
  moe.gate.group_score = num_groups > 1 ? GroupScore::sum_top2 : GroupScore::none;
  return {};
}

Result<void> read_moe(const JsonObject& config, MoeSpec& moe) {
  GH_TRY(read_experts(config, config.any_of({"n_routed_experts", "num_local_experts"}), moe));
  GH_TRY(read_choice(config, "scoring_func", {"sigmoid"}));
  GH_TRY(read_choice(config, "topk_method", {"noaux_tc"}));
  moe.gate.scoring = GateScoring::sigmoid;
  moe.gate_bias = true;
  GH_TRY(read_groups(config, moe));
  GH_ASSIGN(moe.gate.normalize, config.boolean_or("norm_topk_prob", true));
  GH_ASSIGN(const double scale, config.real_or("routed_scaling_factor", 2.5, kScaleRange));
  moe.gate.scale = static_cast<float>(scale);

  // null says "no shared experts"; an absent key says the family's usual one.
  const int64_t usual = config.raw().contains("n_shared_experts") ? 0 : 1;
  GH_ASSIGN(const int64_t shared, config.integer_or("n_shared_experts", usual, {0, 64}));
  moe.shared_width = shared * moe.expert_width;
  return {};
}

}  // namespace

Result<void> deepseek_v3_spec(const JsonObject& config, ModelSpec& spec) {
  GH_TRY(read_mla(config, spec));
  GH_TRY(read_moe(config, spec.moe));
  GH_ASSIGN(const int64_t first_moe, config.integer_or("first_k_dense_replace", 3, {0, kLayersRange.max}));
  GH_ASSIGN(const int64_t every, config.integer_or("moe_layer_freq", 1, kLayersRange));
  for (int64_t layer = 0; layer < spec.num_layers; ++layer)
    spec.is_moe_layer[static_cast<size_t>(layer)] = layer >= first_moe && layer % every == 0;
  return {};
}

}  // namespace guildhall
