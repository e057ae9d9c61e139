// qwen3_moe.cc: Qwen3-MoE (Qwen team 2025): grouped-query attention with per-head norms, plain softmax gate.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/families/family.h"

namespace guildhall {
namespace {

Result<void> read_gqa(const JsonObject& config, ModelSpec& spec) {
  GqaSpec gqa;
  GH_ASSIGN(gqa.num_heads, config.integer("num_attention_heads", kHeadsRange));
  GH_ASSIGN(gqa.num_kv_heads, config.integer_or("num_key_value_heads", gqa.num_heads, kHeadsRange));
  if (gqa.num_heads % gqa.num_kv_heads != 0)
    return config.error(
        Code::invalid_argument, "num_key_value_heads",
        fmt::format("{} does not divide num_attention_heads {}", gqa.num_kv_heads, gqa.num_heads));
  if (!config.has("head_dim") && spec.hidden % gqa.num_heads != 0)
    return config.error(Code::invalid_argument, "head_dim",
                        fmt::format("is missing, and num_attention_heads {} does not divide hidden_size {}",
                                    gqa.num_heads, spec.hidden));
  GH_ASSIGN(gqa.head_dim, config.integer_or("head_dim", spec.hidden / gqa.num_heads, kHeadDimRange));
  GH_TRY(check_even(config, "head_dim", gqa.head_dim));
  GH_ASSIGN(const bool bias, config.boolean_or("attention_bias", false));
  gqa.qkv_bias = gqa.o_bias = bias;
  gqa.qk_norm = true;
  gqa.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(gqa.head_dim)));

  GH_ASSIGN(const bool sliding, config.boolean_or("use_sliding_window", false));
  if (sliding)
    return config.error(Code::unsupported, "use_sliding_window",
                        "true is not supported: this build attends to the whole context (known: false)");
  GH_ASSIGN(const RopeConfig rope, read_rope(config, gqa.head_dim, spec.max_position));
  spec.rope = rope.params;
  spec.rope_pairing = RopePairing::half;
  spec.attention = gqa;
  return {};
}

}  // namespace

Result<void> qwen3_moe_spec(const JsonObject& config, ModelSpec& spec) {
  GH_TRY(read_gqa(config, spec));
  GH_TRY(read_experts(config, config.any_of({"num_experts", "num_local_experts"}), spec.moe));
  GH_ASSIGN(spec.moe.gate.normalize, config.boolean_or("norm_topk_prob", false));

  GH_ASSIGN(const int64_t every, config.integer_or("decoder_sparse_step", 1, kLayersRange));
  GH_ASSIGN(const std::vector<int64_t> dense, config.integers("mlp_only_layers", {0, kLayersRange.max}));
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    const bool listed = std::find(dense.begin(), dense.end(), layer) != dense.end();
    spec.is_moe_layer[static_cast<size_t>(layer)] = !listed && (layer + 1) % every == 0;
  }
  return {};
}

}  // namespace guildhall
