// dense_weights.cc: the router's weights: everything but the routed experts.
#include <fmt/format.h>

#include "model/load_plan.h"
#include "model/weights.h"

namespace guildhall {
namespace {

// What a rank holds of the heads' rows or columns, `dim` for each.
IndexRange of_heads(IndexRange heads, int64_t dim) { return {heads.begin * dim, heads.end * dim}; }

Result<void> plan_gqa(LoadPlan& plan, const std::string& at, int64_t hidden, const GqaSpec& spec,
                      const ModelShard& shard, GqaWeights& out) {
  const int64_t q_rows = spec.num_heads * spec.head_dim, kv_rows = spec.num_kv_heads * spec.head_dim;
  const IndexRange q = of_heads(shard.heads, spec.head_dim), kv = of_heads(shard.kv_heads, spec.head_dim);
  GH_TRY(plan.add_matrix(&out.q, at + "q_proj.weight", q_rows, hidden, {.rows = q}));
  GH_TRY(plan.add_matrix(&out.k, at + "k_proj.weight", kv_rows, hidden, {.rows = kv}));
  GH_TRY(plan.add_matrix(&out.v, at + "v_proj.weight", kv_rows, hidden, {.rows = kv}));
  GH_TRY(plan.add_matrix(&out.o, at + "o_proj.weight", hidden, q_rows, {.cols = q}));
  if (spec.qkv_bias) {
    GH_TRY(plan.add_vector(&out.q_bias, at + "q_proj.bias", q_rows, DummyFill::zeros, q));
    GH_TRY(plan.add_vector(&out.k_bias, at + "k_proj.bias", kv_rows, DummyFill::zeros, kv));
    GH_TRY(plan.add_vector(&out.v_bias, at + "v_proj.bias", kv_rows, DummyFill::zeros, kv));
  }
  if (spec.o_bias && shard.rank == 0)
    GH_TRY(plan.add_vector(&out.o_bias, at + "o_proj.bias", hidden, DummyFill::zeros));
  if (spec.qk_norm) {
    GH_TRY(plan.add_vector(&out.q_norm, at + "q_norm.weight", spec.head_dim, DummyFill::ones));
    GH_TRY(plan.add_vector(&out.k_norm, at + "k_norm.weight", spec.head_dim, DummyFill::ones));
  }
  return {};
}

Result<void> plan_mla(LoadPlan& plan, const std::string& at, int64_t hidden, const MlaSpec& spec,
                      const ModelShard& shard, MlaWeights& out) {
  const int64_t q_dim = spec.qk_nope_head_dim + spec.qk_rope_head_dim, q_rows = spec.num_heads * q_dim;
  const int64_t kv_rows = spec.kv_lora_rank + spec.qk_rope_head_dim;
  const IndexRange q = of_heads(shard.heads, q_dim), attended = of_heads(shard.heads, spec.v_head_dim);
  if (spec.q_lora_rank == 0) {
    GH_TRY(plan.add_matrix(&out.q, at + "q_proj.weight", q_rows, hidden, {.rows = q}));
  } else {
    GH_TRY(plan.add_matrix(&out.q_a, at + "q_a_proj.weight", spec.q_lora_rank, hidden));
    GH_TRY(plan.add_matrix(&out.q_b, at + "q_b_proj.weight", q_rows, spec.q_lora_rank, {.rows = q}));
    GH_TRY(plan.add_vector(&out.q_a_norm, at + "q_a_layernorm.weight", spec.q_lora_rank, DummyFill::ones));
    if (spec.attention_bias)
      GH_TRY(plan.add_vector(&out.q_a_bias, at + "q_a_proj.bias", spec.q_lora_rank, DummyFill::zeros));
  }
  GH_TRY(plan.add_matrix(&out.kv_a, at + "kv_a_proj_with_mqa.weight", kv_rows, hidden));
  GH_TRY(plan.add_vector(&out.kv_a_norm, at + "kv_a_layernorm.weight", spec.kv_lora_rank, DummyFill::ones));
  GH_TRY(plan.add_kv_up({.name = at + "kv_b_proj.weight",
                         .heads = spec.num_heads,
                         .nope_dim = spec.qk_nope_head_dim,
                         .value_dim = spec.v_head_dim,
                         .rank = spec.kv_lora_rank,
                         .part = shard.heads,
                         .k_up_hrn = &out.k_up_hrn,
                         .v_up_hdr = &out.v_up_hdr}));
  GH_TRY(plan.add_matrix(&out.o, at + "o_proj.weight", hidden, spec.num_heads * spec.v_head_dim,
                         {.cols = attended}));
  if (spec.attention_bias) {
    GH_TRY(plan.add_vector(&out.kv_a_bias, at + "kv_a_proj_with_mqa.bias", kv_rows, DummyFill::zeros));
    if (shard.rank == 0) GH_TRY(plan.add_vector(&out.o_bias, at + "o_proj.bias", hidden, DummyFill::zeros));
  }
  return {};
}

struct MlpShape {
  int64_t hidden, width;
  IndexRange columns;  // the rank's, of the width
};

Result<void> plan_mlp(LoadPlan& plan, const std::string& at, const MlpShape& shape, MlpWeights& out) {
  const MatrixRequest gate_up{&out.gate_up,
                              {at + "gate_proj.weight", at + "up_proj.weight"},
                              shape.width,
                              shape.hidden,
                              {.rows = shape.columns}};
  GH_TRY(plan.add_matrices({&gate_up, 1}));
  return plan.add_matrix(&out.down, at + "down_proj.weight", shape.hidden, shape.width,
                         {.cols = shape.columns});
}

Result<void> plan_moe(LoadPlan& plan, const std::string& at, int64_t hidden, const MoeSpec& spec,
                      const ModelShard& shard, MoeWeights& out) {
  if (shard.rank == 0) {
    GH_TRY(plan.add_f32_matrix(&out.gate_eh, at + "gate.weight", spec.num_experts, hidden));
    if (spec.gate_bias)
      GH_TRY(plan.add_vector(&out.gate_bias_e, at + "gate.e_score_correction_bias", spec.num_experts,
                             DummyFill::zeros));
  }
  if (spec.shared_width == 0) return {};
  return plan_mlp(plan, at + "shared_experts.", {hidden, spec.shared_width, shard.shared_columns},
                  out.shared.emplace());
}

Result<void> plan_layer(LoadPlan& plan, const ModelSpec& spec, const ModelShard& shard, size_t layer,
                        LayerWeights& out) {
  const std::string at = fmt::format("model.layers.{}.", layer);
  GH_TRY(plan.add_vector(&out.input_norm, at + "input_layernorm.weight", spec.hidden, DummyFill::ones));
  GH_TRY(plan.add_vector(&out.post_attention_norm, at + "post_attention_layernorm.weight", spec.hidden,
                         DummyFill::ones));
  if (const auto* mla = std::get_if<MlaSpec>(&spec.attention)) {
    GH_TRY(plan_mla(plan, at + "self_attn.", spec.hidden, *mla, shard, out.attention.emplace<MlaWeights>()));
  } else {
    GH_TRY(plan_gqa(plan, at + "self_attn.", spec.hidden, std::get<GqaSpec>(spec.attention), shard,
                    out.attention.emplace<GqaWeights>()));
  }
  if (spec.is_moe_layer[layer])
    return plan_moe(plan, at + "mlp.", spec.hidden, spec.moe, shard, out.mlp.emplace<MoeWeights>());
  return plan_mlp(plan, at + "mlp.", {spec.hidden, spec.dense_width, shard.dense_columns},
                  out.mlp.emplace<MlpWeights>());
}

Result<void> plan_lm_head(LoadPlan& plan, const ModelSpec& spec, const ModelShard& shard, WeightView* out) {
  Result<void> planned =
      plan.add_plain_matrix(out, "lm_head.weight", spec.vocab_size, spec.hidden, {.rows = shard.vocab});
  if (planned.has_error() && planned.error().code == Code::not_found) {
    return Status{
        Code::not_found,
        fmt::format("{}; config.json's tie_word_embeddings is not true, so the output layer needs its own "
                    "weights",
                    planned.error().message)};
  }
  return planned;
}

}  // namespace

struct DenseWeights::Storage {
  Arena arena;
};

DenseWeights::DenseWeights() : storage_(std::make_unique<Storage>()) {}
DenseWeights::~DenseWeights() = default;
int64_t DenseWeights::bytes() const { return storage_->arena.bytes(); }

Result<void> DenseWeights::plan(LoadPlan& plan, const ModelSpec& spec, const ModelShard& shard) {
  GH_TRY(plan.add_plain_matrix(&embed_vh, "model.embed_tokens.weight", spec.vocab_size, spec.hidden,
                               {.rows = shard.vocab}));
  layers.resize(static_cast<size_t>(spec.num_layers));
  for (size_t layer = 0; layer < layers.size(); ++layer)
    GH_TRY(plan_layer(plan, spec, shard, layer, layers[layer]));
  GH_TRY(plan.add_vector(&final_norm, "model.norm.weight", spec.hidden, DummyFill::ones));
  if (spec.tie_embeddings) return {};
  return plan_lm_head(plan, spec, shard, &lm_head_vh);
}

Result<std::unique_ptr<DenseWeights>> DenseWeights::load(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, LoadMode mode,
                                                         LoadProgress& progress, DeviceMemory& device) {
  return load(dir, spec, whole_model(spec), mode, progress, device);
}

Result<std::unique_ptr<DenseWeights>> DenseWeights::load(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, const ModelShard& shard,
                                                         LoadMode mode, LoadProgress& progress,
                                                         DeviceMemory& device) {
  GH_ASSIGN(const std::unique_ptr<TensorSource> source, open_tensor_source(dir, spec, mode));
  std::unique_ptr<DenseWeights> weights(new DenseWeights());
  LoadPlan plan(*source, device);
  GH_TRY(weights->plan(plan, spec, shard));
  GH_ASSIGN(weights->storage_->arena, plan.run(progress));
  if (spec.tie_embeddings) weights->lm_head_vh = weights->embed_vh;
  return weights;
}

Result<int64_t> DenseWeights::bytes_needed(const std::filesystem::path& dir, const ModelSpec& spec,
                                           const ModelShard& shard, LoadMode mode, DeviceMemory& device) {
  GH_ASSIGN(const std::unique_ptr<TensorSource> source, open_tensor_source(dir, spec, mode));
  DenseWeights weights;
  LoadPlan plan(*source, device);
  GH_TRY(weights.plan(plan, spec, shard));
  return plan.bytes();
}

}  // namespace guildhall
