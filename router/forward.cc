#include "router/forward.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/embedding.h"
#include "kernels/gate_topk.h"
#include "kernels/linear.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace guildhall {
namespace {

// [T, heads*D] seen as [T, heads, D].
View3<float> heads(View2<float> x, int64_t num_heads) {
  return {x.data, x.rows, num_heads, x.cols / num_heads, x.stride, x.cols / num_heads};
}
View3<const float> heads(View2<const float> x, int64_t num_heads) {
  return {x.data, x.rows, num_heads, x.cols / num_heads, x.stride, x.cols / num_heads};
}
// [T, heads*D] seen as [T*heads, D]: rows must be contiguous.
View2<float> head_rows(View2<float> x, int64_t num_heads) {
  GH_CHECK(x.stride == x.cols);
  return {x.data, x.rows * num_heads, x.cols / num_heads};
}

}  // namespace

Forward::Forward(const ModelSpec& spec, const DenseWeights& weights, KvCache& cache, Dispatcher& dispatcher,
                 Team& team, StepClock& clock, int64_t max_tokens, int64_t max_position)
    : spec_(spec),
      weights_(weights),
      cache_(cache),
      dispatcher_(dispatcher),
      team_(team),
      clock_(clock),
      rope_(make_rope_table(spec.rope, max_position)) {
  const int64_t t = max_tokens;
  x_.view(t, spec.hidden), h_.view(t, spec.hidden), final_.view(t, spec.hidden);
  gate_up_.view(t, 2 * std::max(spec.dense_width, spec.moe.shared_width));
  act_.view(t, std::max(spec.dense_width, spec.moe.shared_width));
  gate_logits_.view(t, spec.moe.num_experts);
  expert_.resize(static_cast<size_t>(t * spec.moe.top_k));
  weight_.resize(static_cast<size_t>(t * spec.moe.top_k));
  parts_.reserve(2);
  logits_.view(kLogitTile, spec.vocab_size);
  reserve_attention(t);
}

void Forward::reserve_attention(int64_t t) {
  if (const auto* gqa = std::get_if<GqaSpec>(&spec_.attention)) {
    q_.view(t, gqa->num_heads * gqa->head_dim), attended_.view(t, gqa->num_heads * gqa->head_dim);
    k_.view(t, gqa->num_kv_heads * gqa->head_dim), v_.view(t, gqa->num_kv_heads * gqa->head_dim);
    return;
  }
  const auto& mla = std::get<MlaSpec>(spec_.attention);
  const int64_t h = mla.num_heads, latent = mla.kv_lora_rank + mla.qk_rope_head_dim;
  q_.view(t, h * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)), q_low_.view(t, mla.q_lora_rank);
  latent_.view(t, latent), absorbed_.view(t, h * latent), context_.view(t, h * mla.kv_lora_rank);
  attended_.view(t, h * mla.v_head_dim);
}

Result<View2<const float>> Forward::run(const StepBatch& batch, int64_t split) {
  const int64_t num_tokens = batch.num_tokens();
  GH_CHECK(split >= 0 && (split < num_tokens || split == 0));
  const View2<float> x_th = x_.view(num_tokens, spec_.hidden);
  {
    StepClock::Scope scope(clock_, StepPart::embed, {.tokens = num_tokens});
    embedding_cpu(batch.ids_t, weights_.embed_vh, x_th);
  }
  divide(batch, split, x_th);
  // A micro-batch's layer is combined only when its next begins: the other's attention runs in between. The
  // keys and values of a layer are written in the order of tokens, so a sequence may lie on both sides.
  for (int64_t layer = 0; layer < spec_.num_layers; ++layer)
    for (const MicroBatch& m : parts_) {
      if (layer > 0) GH_TRY(combine(layer - 1, m));
      GH_TRY(run_layer(layer, m));
    }
  for (const MicroBatch& m : parts_) GH_TRY(combine(spec_.num_layers - 1, m));
  return final_rows(batch, x_th);
}

void Forward::divide(const StepBatch& batch, int64_t split, View2<float> x_th) {
  const AttentionBatch whole = batch.attention();
  const auto add = [&](int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin), n = static_cast<size_t>(end - begin);
    parts_.push_back({.idx = static_cast<int>(parts_.size()),
                      .first_token = begin,
                      .num_tokens = end - begin,
                      .x_th = x_th.sub_rows(begin, end - begin),
                      .batch = {whole.sequence_t.subspan(first, n), whole.position_t.subspan(first, n),
                                whole.block_table_sb}});
  };
  parts_.clear();
  if (split > 0) add(0, split);
  add(split, x_th.rows);
}

Result<void> Forward::run_layer(int64_t layer, const MicroBatch& m) {
  attention(layer, m);
  dispatcher_.progress();  // what the other micro-batch has on the wire
  return feed_forward(layer, m);
}

// x += attention(norm(x))
void Forward::attention(int64_t layer, const MicroBatch& m) {
  StepClock::Scope scope(clock_, StepPart::attention,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const View2<float> h_th = h_.view(m.num_tokens, spec_.hidden);
  rmsnorm_cpu(team_, m.x_th, w.input_norm, spec_.rms_eps, h_th);
  if (std::holds_alternative<GqaSpec>(spec_.attention))
    gqa(layer, m.batch, h_th, m.x_th);
  else
    mla(layer, m.batch, h_th, m.x_th);
}

void Forward::gqa(int64_t layer, const AttentionBatch& batch, View2<const float> h_th, View2<float> x_th) {
  const auto& a = std::get<GqaSpec>(spec_.attention);
  const auto& w = std::get<GqaWeights>(weights_.layers[static_cast<size_t>(layer)].attention);
  const int64_t t = x_th.rows;
  const View2<float> q = q_.view(t, a.num_heads * a.head_dim);
  const View2<float> k = k_.view(t, a.num_kv_heads * a.head_dim);
  const View2<float> v = v_.view(t, a.num_kv_heads * a.head_dim);
  linear_cpu(team_, h_th, w.q, {.bias_n = w.q_bias}, q);
  linear_cpu(team_, h_th, w.k, {.bias_n = w.k_bias}, k);
  linear_cpu(team_, h_th, w.v, {.bias_n = w.v_bias}, v);
  if (a.qk_norm) {
    rmsnorm_cpu(team_, head_rows(q, a.num_heads), w.q_norm, spec_.rms_eps, head_rows(q, a.num_heads));
    rmsnorm_cpu(team_, head_rows(k, a.num_kv_heads), w.k_norm, spec_.rms_eps, head_rows(k, a.num_kv_heads));
  }
  rope_cpu(team_, rope_, spec_.rope_pairing, batch.position_t, heads(q, a.num_heads).sub2(0, rope_.dim));
  rope_cpu(team_, rope_, spec_.rope_pairing, batch.position_t, heads(k, a.num_kv_heads).sub2(0, rope_.dim));

  const KvPages pages = cache_.layer(layer);
  kv_write_cpu(team_, heads(k, a.num_kv_heads), heads(v, a.num_kv_heads), batch, pages);
  const View2<float> attended = attended_.view(t, a.num_heads * a.head_dim);
  paged_attention_cpu(team_, heads(q, a.num_heads), batch, pages, a.scale, heads(attended, a.num_heads));
  linear_cpu(team_, attended, w.o, {.bias_n = w.o_bias, .accumulate = true}, x_th);
}

// Absorbed MLA (DeepSeek-V2 §2.1.2), for prefill and decode alike so that a row's bits never depend on which:
// the cache holds [latent r | rotated key dr]; queries are taken into the latent space and results out of it.
void Forward::mla(int64_t layer, const AttentionBatch& batch, View2<const float> h_th, View2<float> x_th) {
  const auto& a = std::get<MlaSpec>(spec_.attention);
  const auto& w = std::get<MlaWeights>(weights_.layers[static_cast<size_t>(layer)].attention);
  const int64_t t = x_th.rows, r = a.kv_lora_rank, dn = a.qk_nope_head_dim, dr = a.qk_rope_head_dim;

  const View2<float> latent = latent_.view(t, r + dr);
  linear_cpu(team_, h_th, w.kv_a, {.bias_n = w.kv_a_bias}, latent);
  rmsnorm_cpu(team_, latent.sub_cols(0, r), w.kv_a_norm, a.norm_eps, latent.sub_cols(0, r));
  rope_cpu(team_, rope_, spec_.rope_pairing, batch.position_t, heads(latent, 1).sub2(r, dr));
  const KvPages pages = cache_.layer(layer);
  kv_write_cpu(team_, heads(latent, 1), {}, batch, pages);

  const View2<const float> q = mla_queries(a, w, h_th);
  const View2<float> absorbed = absorbed_.view(t, a.num_heads * (r + dr));
  linear_heads_cpu(team_, heads(q, a.num_heads).sub2(0, dn), w.k_up_hrn,
                   heads(absorbed, a.num_heads).sub2(0, r));
  const View3<const float> q_rope = heads(q, a.num_heads).sub2(dn, dr);
  const View3<float> absorbed_rope = heads(absorbed, a.num_heads).sub2(r, dr);
  for (int64_t i = 0; i < t; ++i)
    for (int64_t head = 0; head < a.num_heads; ++head)
      std::copy_n(q_rope.at(i, head), dr, absorbed_rope.at(i, head));
  rope_cpu(team_, rope_, spec_.rope_pairing, batch.position_t, absorbed_rope);

  const View2<float> context = context_.view(t, a.num_heads * r);
  paged_attention_cpu(team_, heads(absorbed, a.num_heads), batch, pages, a.scale,
                      heads(context, a.num_heads));
  const View2<float> attended = attended_.view(t, a.num_heads * a.v_head_dim);
  linear_heads_cpu(team_, heads(View2<const float>(context), a.num_heads), w.v_up_hdr,
                   heads(attended, a.num_heads));
  linear_cpu(team_, attended, w.o, {.bias_n = w.o_bias, .accumulate = true}, x_th);
}

// [T, H*(dn+dr)], straight from hidden or through the low-rank bottleneck.
View2<const float> Forward::mla_queries(const MlaSpec& a, const MlaWeights& w, View2<const float> h_th) {
  const View2<float> q = q_.view(h_th.rows, a.num_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim));
  if (a.q_lora_rank == 0) {
    linear_cpu(team_, h_th, w.q, {}, q);
    return q;
  }
  const View2<float> q_low = q_low_.view(h_th.rows, a.q_lora_rank);
  linear_cpu(team_, h_th, w.q_a, {.bias_n = w.q_a_bias}, q_low);
  rmsnorm_cpu(team_, q_low, w.q_a_norm, a.norm_eps, q_low);
  linear_cpu(team_, q_low, w.q_b, {}, q);
  return q;
}

// x += mlp(norm(x)) or x += shared(norm(x)) + experts(norm(x)); the routed experts' part is combine()'s.
Result<void> Forward::feed_forward(int64_t layer, const MicroBatch& m) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const TraceArgs about{.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens};
  const View2<float> h_th = h_.view(m.num_tokens, spec_.hidden);
  rmsnorm_cpu(team_, m.x_th, w.post_attention_norm, spec_.rms_eps, h_th);
  const auto* moe = std::get_if<MoeWeights>(&w.mlp);
  if (moe == nullptr) {
    StepClock::Scope scope(clock_, StepPart::dense_mlp, about);
    mlp(std::get<MlpWeights>(w.mlp), h_th, m.x_th);
    return {};
  }
  GH_TRY(dispatch(layer, m, *moe, h_th));
  if (moe->shared) {  // while the experts work
    StepClock::Scope scope(clock_, StepPart::shared_experts, about);
    mlp(*moe->shared, h_th, m.x_th);
  }
  return {};
}

Result<void> Forward::dispatch(int64_t layer, const MicroBatch& m, const MoeWeights& w,
                               View2<const float> h_th) {
  const TraceArgs about{.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens};
  const int64_t top_k = spec_.moe.top_k;
  const View2<int32_t> expert_tk(expert_.data() + m.first_token * top_k, m.num_tokens, top_k);
  const View2<float> weight_tk(weight_.data() + m.first_token * top_k, m.num_tokens, top_k);
  {
    StepClock::Scope scope(clock_, StepPart::gate, about);
    const View2<float> logits_te = gate_logits_.view(m.num_tokens, spec_.moe.num_experts);
    linear_cpu(team_, h_th, w.gate_eh, {}, logits_te);
    gate_topk_cpu(logits_te, w.gate_bias_e, spec_.moe.gate, expert_tk, weight_tk);
  }
  StepClock::Scope scope(clock_, StepPart::dispatch, about);
  return dispatcher_.dispatch({.layer = layer, .micro_batch = m.idx}, h_th, expert_tk, weight_tk);
}

// x += experts(norm(x)), once their rows are back.
Result<void> Forward::combine(int64_t layer, const MicroBatch& m) {
  if (!spec_.is_moe_layer[static_cast<size_t>(layer)]) return {};
  StepClock::Scope scope(clock_, StepPart::combine,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  return dispatcher_.combine(m.idx, m.x_th);
}

// x += down(silu(gate h) * up h)
void Forward::mlp(const MlpWeights& w, View2<const float> h_th, View2<float> x_th) {
  const View2<float> gate_up = gate_up_.view(h_th.rows, w.gate_up.rows);
  const View2<float> act = act_.view(h_th.rows, w.down.cols);
  linear_cpu(team_, h_th, w.gate_up, {}, gate_up);
  swiglu_cpu(team_, gate_up, act);
  linear_cpu(team_, act, w.down, {.accumulate = true}, x_th);
}

View2<const float> Forward::final_rows(const StepBatch& batch, View2<const float> x_th) {
  StepClock::Scope scope(clock_, StepPart::logits, {.tokens = static_cast<int64_t>(batch.logit_rows.size())});
  const View2<float> rows = final_.view(static_cast<int64_t>(batch.logit_rows.size()), spec_.hidden);
  for (int64_t i = 0; i < rows.rows; ++i)
    std::copy_n(x_th.row(batch.logit_rows[static_cast<size_t>(i)]), spec_.hidden, rows.row(i));
  rmsnorm_cpu(team_, rows, weights_.final_norm, spec_.rms_eps, rows);
  return rows;
}

View2<const float> Forward::logits(View2<const float> hidden_rh) {
  GH_CHECK(hidden_rh.rows <= kLogitTile);
  StepClock::Scope scope(clock_, StepPart::logits, {.tokens = hidden_rh.rows});
  const View2<float> logits_rv = logits_.view(hidden_rh.rows, spec_.vocab_size);
  linear_cpu(team_, hidden_rh, weights_.lm_head_vh, {}, logits_rv);
  return logits_rv;
}

}  // namespace guildhall
