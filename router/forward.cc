#include "router/forward.h"

#include <algorithm>

#include "base/check.h"
#include "router/decode_batch.h"

namespace guildhall {
namespace {

constexpr int64_t kTableRoom =
    1 << 16;                            // entries of a block table to begin with: 64 sequences of 16 K tokens
constexpr int64_t kSharedExperts = -1;  // in a record's key, where attention has its context

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

Forward::Forward(const ModelSpec& spec, const DenseWeights& weights, KvCache& cache, Dispatcher* dispatcher,
                 Ops& ops, StepClock& clock, int64_t max_tokens, int64_t max_position,
                 const ForwardRank& rank)
    : spec_(spec),
      weights_(weights),
      cache_(cache),
      dispatcher_(dispatcher),
      ops_(ops),
      clock_(clock),
      rank_(rank),
      max_tokens_(max_tokens),
      rope_(make_rope_table(spec.rope, max_position)),
      arrays_(ops, {decode_rows(max_tokens), decode_rows(max_tokens), decode_rows(max_tokens), max_tokens,
                    std::min(kTableRoom, max_tokens * cache.pool().pages_for(max_position))}),
      routed_experts_(spec) {
  const int64_t t = ops.records() ? decode_rows(max_tokens) : max_tokens;
  x_.view(t, spec.hidden), h_.view(t, spec.hidden), final_.view(t, spec.hidden);
  gate_up_.view(t, 2 * std::max(spec.dense_width, spec.moe.shared_width));
  act_.view(t, std::max(spec.dense_width, spec.moe.shared_width));
  gate_logits_.view(t, spec.moe.num_experts);
  expert_.view(t, spec.moe.top_k), weight_.view(t, spec.moe.top_k);
  predicted_.view(t, spec.moe.top_k), predicted_weight_.view(t, spec.moe.top_k);
  parts_.reserve(2);
  if (dispatcher) rows_.emplace(ops, *dispatcher, spec.hidden, spec.moe.top_k, max_tokens);
  logits_.view(kLogitTile, rank.shard ? rank.shard->vocab_size : spec.vocab_size);
  reserve_attention(t);
  reserve_parts(t);
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
  GH_CHECK(split >= 0 && (split < batch.num_tokens() || split == 0));
  const StepBatch& step = shaped(batch, split);
  owners_ = batch.seed_s.empty() ? RowOwners{} : RowOwners{batch.seed_s, batch.sequence_t, batch.position_t};
  const View2<float> x_th = x_.view(step.num_tokens(), spec_.hidden);
  upload(step);
  {
    StepClock::Scope scope(clock_, StepPart::embed, {.tokens = batch.num_tokens()});
    embed(x_th);
  }
  divide(step, split, x_th);
  routed_experts_.begin(batch.routed_rows);
  if (recorded_context_ > 0) {
    parts_[0].num_tokens = batch.num_tokens();
    parts_[0].batch.bounds = {.max_context = recorded_context_, .lone = {0, x_th.rows}};
  }
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

void Forward::rehearse(int64_t max_sequences) {
  // Prompts as long as may be, all in the same pages.
  const int64_t length = std::min(max_tokens_, rope_.num_positions);
  StepBatch prompt{.num_sequences = (max_tokens_ + length - 1) / length,
                   .blocks_per_sequence = cache_.pool().pages_for(length)};
  for (int64_t i = 0; i < prompt.num_sequences * prompt.blocks_per_sequence; ++i)
    prompt.block_table_sb.push_back(static_cast<int32_t>(i % prompt.blocks_per_sequence));
  StepBatch decode{.num_sequences = decode_rows(std::min(max_sequences, max_tokens_)),
                   .blocks_per_sequence = 1};
  decode.block_table_sb.resize(static_cast<size_t>(decode.num_sequences));
  const auto add = [](StepBatch& batch, int64_t position, int64_t sequence) {
    if (batch.num_tokens() < kLogitTile) batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.ids_t.push_back(0);
    batch.position_t.push_back(static_cast<int32_t>(position));
    batch.sequence_t.push_back(static_cast<int32_t>(sequence));
  };
  for (int64_t t = 0; t < max_tokens_; ++t) add(prompt, t % length, t / length);
  for (int64_t s = 0; s < decode.num_sequences; ++s) add(decode, 0, s);
  rehearse_step(prompt, length);
  rehearse_step(decode, decode_context(rope_.num_positions));
}

void Forward::rehearse_step(const StepBatch& batch, int64_t max_context) {
  const View2<float> x_th = x_.view(batch.num_tokens(), spec_.hidden);
  upload(batch);
  ops_.embedding(arrays_[kIds], weights_.embed_vh, x_th);
  divide(batch, 0, x_th);
  parts_[0].batch.bounds.max_context = max_context;
  for (int64_t layer = 0; layer < spec_.num_layers; ++layer) {
    until_exchange(layer, parts_[0]);
    const auto* moe = std::get_if<MoeWeights>(&weights_.layers[static_cast<size_t>(layer)].mlp);
    if (moe != nullptr && moe->shared) mlp(*moe->shared, h_.view(x_th.rows, spec_.hidden), x_th);
  }
  const View2<float> logits_rv = logits(final_rows(batch, x_th));
  const SampleDraw draw{.row = 0, .rule = {.temperature = 1, .top_p = 0.5f}, .u = 0.5};
  int32_t token = 0;
  ops_.sample(logits_rv, {&draw, 1}, {&token, 1});  // waits for the device
}

// The step as it runs: a decode step takes a shape that recurs where the device records what it is told.
const StepBatch& Forward::shaped(const StepBatch& batch, int64_t split) {
  const bool alone = rank_.collective == nullptr;  // what ranks do together is not recorded
  const bool recurs = alone && ops_.records() && split == 0 && is_decode(batch);
  recorded_context_ = recurs ? pad_decode(batch, cache_.pool().block_size(), padded_) : 0;
  return recurs ? padded_ : batch;
}

void Forward::upload(const StepBatch& batch) {
  arrays_.upload(
      {ids_here(batch), batch.position_t, batch.sequence_t, batch.logit_rows, batch.block_table_sb});
}

void Forward::divide(const StepBatch& batch, int64_t split, View2<float> x_th) {
  const View2<const int32_t> block_table_sb{arrays_[kBlockTable].data(), batch.num_sequences,
                                            batch.blocks_per_sequence};
  const auto add = [&](int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin), n = static_cast<size_t>(end - begin);
    parts_.push_back(
        {.idx = static_cast<int>(parts_.size()),
         .first_token = begin,
         .num_tokens = end - begin,
         .x_th = x_th.sub_rows(begin, end - begin),
         .batch = {arrays_[kSequence].subspan(first, n), arrays_[kPosition].subspan(first, n), block_table_sb,
                   attention_bounds(std::span(batch.sequence_t).subspan(first, n),
                                    std::span(batch.position_t).subspan(first, n))}});
  };
  parts_.clear();
  if (split > 0) add(0, split);
  add(split, x_th.rows);
}

Result<void> Forward::run_layer(int64_t layer, const MicroBatch& m) {
  if (recorded_context_ > 0) {
    StepClock::Scope scope(clock_, StepPart::attention, {.layer = layer, .tokens = m.num_tokens});
    // The tables move only when they outgrow their room.
    const auto table = reinterpret_cast<intptr_t>(m.batch.block_table_sb.data);
    const auto body = [&] { until_exchange(layer, m); };
    ops_.replay({layer, m.x_th.rows, recorded_context_, table}, std::ref(body));
  } else {
    until_exchange(layer, m);
  }
  if (dispatcher_ != nullptr) dispatcher_->progress();  // what the other micro-batch has on the wire
  GH_TRY(together());
  return exchange(layer, m);
}

// A layer up to where its rows leave the device: attention, then the MLP, or the choice of experts.
void Forward::until_exchange(int64_t layer, const MicroBatch& m) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  attention(layer, m);
  const View2<float> h_th = h_.view(m.x_th.rows, spec_.hidden);
  ops_.rmsnorm(m.x_th, w.post_attention_norm, spec_.rms_eps, h_th);
  if (const auto* moe = std::get_if<MoeWeights>(&w.mlp)) {
    if (dispatcher_ != nullptr) gate(layer, m, *moe, h_th);
    return;
  }
  StepClock::Scope scope(clock_, StepPart::dense_mlp,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const auto& dense = std::get<MlpWeights>(w.mlp);
  add_linear(activated(dense, h_th), dense.down, {}, part_m_[static_cast<size_t>(m.idx)].mlp, m.x_th);
}

// x += shared(norm(x)) while the routed experts work, whose part is combine()'s. A device is told before the
// host waits for the rows, so that it computes while the host packs, sends and waits; the CPU sends first.
Result<void> Forward::exchange(int64_t layer, const MicroBatch& m) {
  const auto* moe = std::get_if<MoeWeights>(&weights_.layers[static_cast<size_t>(layer)].mlp);
  if (moe == nullptr) return {};
  if (dispatcher_ == nullptr) {  // the first rank's exchange
    if (moe->shared) shared_experts(layer, m, *moe->shared);
    return {};
  }
  const Choices chosen = choices(m);
  const std::optional<int64_t> next =
      dispatcher_->has_offloading_workers() ? next_moe_layer(layer) : std::nullopt;
  View2<const int32_t> predicted_tk;  // a device's is there when the rows are
  if (next && !ops_.memory().is_host()) predicted_tk = predict(*next, m);
  const bool told_at_once =
      rows_->depart(m.idx, h_.view(m.num_tokens, spec_.hidden), chosen.expert_tk.first_rows(m.num_tokens),
                    chosen.weight_tk.first_rows(m.num_tokens));
  if (moe->shared && told_at_once) shared_experts(layer, m, *moe->shared);
  GH_TRY(dispatch(layer, m));
  if (next && ops_.memory().is_host()) predicted_tk = predict(*next, m);
  if (next) dispatcher_->hint(*next, predicted_tk);
  if (moe->shared && !told_at_once) shared_experts(layer, m, *moe->shared);
  return {};
}

// What the gate of a layer to come chooses for this layer's rows, on its way to the host: a guess at what it
// will choose, as layers add little to what they are given (A. Eliseev, D. Mazur, "Fast Inference of
// Mixture-of-Experts Language Models with Offloading", 2023).
View2<const int32_t> Forward::predict(int64_t layer, const MicroBatch& m) {
  StepClock::Scope scope(clock_, StepPart::gate,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const auto& moe = std::get<MoeWeights>(weights_.layers[static_cast<size_t>(layer)].mlp);
  const View2<float> logits_te = gate_logits_.view(m.num_tokens, spec_.moe.num_experts);
  const View2<int32_t> expert_tk = predicted_.view(m.num_tokens, spec_.moe.top_k);
  ops_.linear(h_.view(m.num_tokens, spec_.hidden), moe.gate_eh, {}, logits_te);
  ops_.gate_topk(logits_te, moe.gate_bias_e, spec_.moe.gate, expert_tk,
                 predicted_weight_.view(m.num_tokens, spec_.moe.top_k));
  return predicted_here_.download(expert_tk);
}

std::optional<int64_t> Forward::next_moe_layer(int64_t layer) const {
  for (int64_t next = layer + 1; next < spec_.num_layers; ++next)
    if (spec_.is_moe_layer[static_cast<size_t>(next)]) return next;
  return std::nullopt;
}

void Forward::shared_experts(int64_t layer, const MicroBatch& m, const MlpWeights& w) {
  StepClock::Scope scope(clock_, StepPart::shared_experts,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const View2<const float> h_th = h_.view(m.x_th.rows, spec_.hidden);
  if (rank_.collective != nullptr) {  // added with the routed experts' part
    const View2<float> part_th = part_m_[static_cast<size_t>(m.idx)].mlp.view(h_th.rows, h_th.cols);
    return ops_.linear(activated(w, h_th), w.down, {}, part_th);
  }
  const auto body = [&] { mlp(w, h_th, m.x_th); };
  if (recorded_context_ > 0)
    ops_.replay({layer, m.x_th.rows, kSharedExperts}, std::ref(body));
  else
    body();
}

// x += attention(norm(x))
void Forward::attention(int64_t layer, const MicroBatch& m) {
  StepClock::Scope scope(clock_, StepPart::attention,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const View2<float> h_th = h_.view(m.x_th.rows, spec_.hidden);
  ops_.rmsnorm(m.x_th, w.input_norm, spec_.rms_eps, h_th);
  if (std::holds_alternative<GqaSpec>(spec_.attention))
    gqa(layer, m, h_th);
  else
    mla(layer, m, h_th);
}

void Forward::gqa(int64_t layer, const MicroBatch& m, View2<const float> h_th) {
  const auto& a = std::get<GqaSpec>(spec_.attention);
  const auto& w = std::get<GqaWeights>(weights_.layers[static_cast<size_t>(layer)].attention);
  const AttentionBatch& batch = m.batch;
  const int64_t t = h_th.rows;
  const View2<float> q = q_.view(t, a.num_heads * a.head_dim);
  const View2<float> k = k_.view(t, a.num_kv_heads * a.head_dim);
  const View2<float> v = v_.view(t, a.num_kv_heads * a.head_dim);
  ops_.linear(h_th, w.q, {.bias_n = w.q_bias}, q);
  ops_.linear(h_th, w.k, {.bias_n = w.k_bias}, k);
  ops_.linear(h_th, w.v, {.bias_n = w.v_bias}, v);
  if (a.qk_norm) {
    ops_.rmsnorm(head_rows(q, a.num_heads), w.q_norm, spec_.rms_eps, head_rows(q, a.num_heads));
    ops_.rmsnorm(head_rows(k, a.num_kv_heads), w.k_norm, spec_.rms_eps, head_rows(k, a.num_kv_heads));
  }
  ops_.rope(rope_, spec_.rope_pairing, batch.position_t, heads(q, a.num_heads).sub2(0, rope_.dim));
  ops_.rope(rope_, spec_.rope_pairing, batch.position_t, heads(k, a.num_kv_heads).sub2(0, rope_.dim));

  const KvPages pages = cache_.layer(layer);
  ops_.kv_write(heads(k, a.num_kv_heads), heads(v, a.num_kv_heads), batch, pages);
  const View2<float> attended = attended_.view(t, a.num_heads * a.head_dim);
  ops_.paged_attention(heads(q, a.num_heads), batch, pages, a.scale, heads(attended, a.num_heads));
  add_linear(attended, w.o, w.o_bias, part_m_[static_cast<size_t>(m.idx)].attention, m.x_th);
}

// Absorbed MLA (DeepSeek-V2 §2.1.2), for prefill and decode alike so that a row's bits never depend on which:
// the cache holds [latent r | rotated key dr]; queries are taken into the latent space and results out of it.
void Forward::mla(int64_t layer, const MicroBatch& m, View2<const float> h_th) {
  const auto& a = std::get<MlaSpec>(spec_.attention);
  const auto& w = std::get<MlaWeights>(weights_.layers[static_cast<size_t>(layer)].attention);
  const AttentionBatch& batch = m.batch;
  const int64_t t = h_th.rows, r = a.kv_lora_rank, dn = a.qk_nope_head_dim, dr = a.qk_rope_head_dim;

  const View2<float> latent = latent_.view(t, r + dr);
  ops_.linear(h_th, w.kv_a, {.bias_n = w.kv_a_bias}, latent);
  ops_.rmsnorm(latent.sub_cols(0, r), w.kv_a_norm, a.norm_eps, latent.sub_cols(0, r));
  ops_.rope(rope_, spec_.rope_pairing, batch.position_t, heads(latent, 1).sub2(r, dr));
  const KvPages pages = cache_.layer(layer);
  ops_.kv_write(heads(latent, 1), {}, batch, pages);

  const View2<const float> q = mla_queries(a, w, h_th);
  const View2<float> absorbed = absorbed_.view(t, a.num_heads * (r + dr));
  ops_.linear_heads(heads(q, a.num_heads).sub2(0, dn), w.k_up_hrn, heads(absorbed, a.num_heads).sub2(0, r));
  const View3<const float> q_rope = heads(q, a.num_heads).sub2(dn, dr);
  const View3<float> absorbed_rope = heads(absorbed, a.num_heads).sub2(r, dr);
  ops_.copy(q_rope, absorbed_rope);
  ops_.rope(rope_, spec_.rope_pairing, batch.position_t, absorbed_rope);

  const View2<float> context = context_.view(t, a.num_heads * r);
  ops_.paged_attention(heads(absorbed, a.num_heads), batch, pages, a.scale, heads(context, a.num_heads));
  const View2<float> attended = attended_.view(t, a.num_heads * a.v_head_dim);
  ops_.linear_heads(heads(View2<const float>(context), a.num_heads), w.v_up_hdr,
                    heads(attended, a.num_heads));
  add_linear(attended, w.o, w.o_bias, part_m_[static_cast<size_t>(m.idx)].attention, m.x_th);
}

// [T, H*(dn+dr)], straight from hidden or through the low-rank bottleneck.
View2<const float> Forward::mla_queries(const MlaSpec& a, const MlaWeights& w, View2<const float> h_th) {
  const View2<float> q = q_.view(h_th.rows, a.num_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim));
  if (a.q_lora_rank == 0) {
    ops_.linear(h_th, w.q, {}, q);
    return q;
  }
  const View2<float> q_low = q_low_.view(h_th.rows, a.q_lora_rank);
  ops_.linear(h_th, w.q_a, {.bias_n = w.q_a_bias}, q_low);
  ops_.rmsnorm(q_low, w.q_a_norm, a.norm_eps, q_low);
  ops_.linear(q_low, w.q_b, {}, q);
  return q;
}

Forward::Choices Forward::choices(const MicroBatch& m) {
  const int64_t top_k = spec_.moe.top_k, rows = m.x_th.rows, end = m.first_token + rows;
  return {expert_.view(end, top_k).sub_rows(m.first_token, rows),
          weight_.view(end, top_k).sub_rows(m.first_token, rows)};
}

void Forward::gate(int64_t layer, const MicroBatch& m, const MoeWeights& w, View2<const float> h_th) {
  StepClock::Scope scope(clock_, StepPart::gate,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  const View2<float> logits_te = gate_logits_.view(m.x_th.rows, spec_.moe.num_experts);
  const Choices chosen = choices(m);
  ops_.linear(h_th, w.gate_eh, {}, logits_te);
  ops_.gate_topk(logits_te, w.gate_bias_e, spec_.moe.gate, chosen.expert_tk, chosen.weight_tk);
}

Result<void> Forward::dispatch(int64_t layer, const MicroBatch& m) {
  StepClock::Scope scope(clock_, StepPart::dispatch,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  GH_TRY(rows_->dispatch(
      {.layer = layer, .micro_batch = m.idx, .first_token = m.first_token, .owners = owners(m)}));
  if (routed_experts_.wanted()) routed_experts_.record(layer, m.first_token, rows_->choices(m.idx));
  return {};
}

RowOwners Forward::owners(const MicroBatch& m) const {
  if (owners_.position_t.empty()) return {};
  const auto first = static_cast<size_t>(m.first_token), n = static_cast<size_t>(m.num_tokens);
  return {owners_.seed_s, owners_.sequence_t.subspan(first, n), owners_.position_t.subspan(first, n)};
}

// x += experts(norm(x)), once their rows are back.
Result<void> Forward::combine(int64_t layer, const MicroBatch& m) {
  if (!spec_.is_moe_layer[static_cast<size_t>(layer)]) return {};
  StepClock::Scope scope(clock_, StepPart::combine,
                         {.layer = layer, .micro_batch = m.idx, .tokens = m.num_tokens});
  if (rank_.collective == nullptr) return rows_->combine(m.idx, m.x_th.first_rows(m.num_tokens));
  const auto& moe = std::get<MoeWeights>(weights_.layers[static_cast<size_t>(layer)].mlp);
  const View2<float> part_th = part_m_[static_cast<size_t>(m.idx)].mlp.view(m.x_th.rows, m.x_th.cols);
  if (dispatcher_ != nullptr) {
    if (!moe.shared) ops_.fill_zero(part_th);
    GH_TRY(rows_->combine(m.idx, part_th.first_rows(m.num_tokens)));
  }
  rank_.collective->add_parts(part_th, moe.shared ? rank_.shard->num_ranks : 1, m.x_th);
  return together();
}

// silu(gate h) * up h
View2<const float> Forward::activated(const MlpWeights& w, View2<const float> h_th) {
  const View2<float> gate_up = gate_up_.view(h_th.rows, w.gate_up.rows);
  const View2<float> act = act_.view(h_th.rows, w.down.cols);
  ops_.linear(h_th, w.gate_up, {}, gate_up);
  ops_.swiglu(gate_up, act);
  return act;
}

// x += down(silu(gate h) * up h), of this rank alone
void Forward::mlp(const MlpWeights& w, View2<const float> h_th, View2<float> x_th) {
  ops_.linear(activated(w, h_th), w.down, {.accumulate = true}, x_th);
}

View2<const float> Forward::final_rows(const StepBatch& batch, View2<const float> x_th) {
  StepClock::Scope scope(clock_, StepPart::logits, {.tokens = static_cast<int64_t>(batch.logit_rows.size())});
  const View2<float> rows = final_.view(static_cast<int64_t>(batch.logit_rows.size()), spec_.hidden);
  ops_.gather_rows(x_th, arrays_[kLogitRows], rows);
  ops_.rmsnorm(rows, weights_.final_norm, spec_.rms_eps, rows);
  return rows;
}

}  // namespace guildhall
