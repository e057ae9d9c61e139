// forward_ranks.cc: where the ranks of tensor parallelism meet in a step; alone, plain sums and products.
#include "base/check.h"
#include "router/forward.h"

namespace guildhall {

void Forward::reserve_parts(int64_t max_tokens) {
  if (rank_.shard == nullptr || rank_.shard->num_ranks == 1) return;
  for (Parts& parts : part_m_) {
    parts.attention.view(max_tokens, spec_.hidden);
    parts.mlp.view(max_tokens, spec_.hidden);
  }
  logits_part_.view(kLogitTile, spec_.vocab_size);
}

// Error: what was computed together is void.
Result<void> Forward::together() const {
  return rank_.collective == nullptr ? Result<void>{} : rank_.collective->state();
}

// Ids as rows of this rank's part of the table; -1: another's.
std::span<const int32_t> Forward::ids_here(const StepBatch& batch) {
  if (rank_.collective == nullptr) return batch.ids_t;
  const IndexRange vocab = rank_.shard->vocab;
  ids_here_t_.clear();
  for (const int32_t id : batch.ids_t)
    ids_here_t_.push_back(vocab.contains(id) ? id - static_cast<int32_t>(vocab.begin) : -1);
  return ids_here_t_;
}

void Forward::embed(View2<float> x_th) {
  if (rank_.collective == nullptr) return ops_.embedding(arrays_[kIds], weights_.embed_vh, x_th);
  const View2<float> part_th = part_m_[0].mlp.view(x_th.rows, x_th.cols);
  ops_.embedding(arrays_[kIds], weights_.embed_vh, part_th);
  ops_.fill_zero(x_th);
  rank_.collective->add_parts(part_th, rank_.shard->num_ranks, x_th);
}

// x += W y + bias, of all ranks.
void Forward::add_linear(View2<const float> y_tk, WeightView w_hk, std::span<const float> bias_h,
                         DeviceMatrix<float>& part, View2<float> x_th) {
  if (rank_.collective == nullptr)
    return ops_.linear(y_tk, w_hk, {.bias_n = bias_h, .accumulate = true}, x_th);
  const View2<float> part_th = part.view(x_th.rows, x_th.cols);
  ops_.linear(y_tk, w_hk, {.bias_n = bias_h}, part_th);
  rank_.collective->add_parts(part_th, rank_.shard->num_ranks, x_th);
}

View2<float> Forward::logits(View2<const float> hidden_rh) {
  GH_CHECK(hidden_rh.rows <= kLogitTile);
  StepClock::Scope scope(clock_, StepPart::logits, {.tokens = hidden_rh.rows});
  if (rank_.collective == nullptr) {
    const View2<float> logits_rv = logits_.view(hidden_rh.rows, spec_.vocab_size);
    ops_.linear(hidden_rh, weights_.lm_head_vh, {}, logits_rv);
    return logits_rv;
  }
  const View2<float> part_rc = logits_part_.view(hidden_rh.rows, spec_.vocab_size);
  const View2<float> logits_rv = logits_.view(hidden_rh.rows, rank_.shard->vocab_size);
  ops_.linear(hidden_rh, weights_.lm_head_vh, {}, part_rc);
  rank_.collective->gather_columns(part_rc, rank_.shard->vocab.begin, logits_rv);
  return logits_rv;
}

}  // namespace guildhall
