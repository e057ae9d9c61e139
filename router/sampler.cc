#include "router/sampler.h"

#include <algorithm>

namespace guildhall {

void Sampler::run(View2<float> logits_rv, std::span<const LogitRow> row_r, std::span<RowResult> result_r) {
  const View2<const float> unedited_kv = keep_unedited(logits_rv, row_r);
  edit(logits_rv, row_r);
  draw(logits_rv, row_r, result_r);
  score(logits_rv, row_r, false, result_r);
  score(unedited_kv, row_r, true, result_r);
}

// Copies of rows whose scores are wanted as they were before their edits.
View2<const float> Sampler::keep_unedited(View2<const float> logits_rv, std::span<const LogitRow> row_r) {
  kept_rows_.clear();
  for (size_t r = 0; r < row_r.size(); ++r)
    if (row_r[r].edited() && row_r[r].num_top()) kept_rows_.push_back(static_cast<int32_t>(r));
  if (kept_rows_.empty()) return {nullptr, 0, logits_rv.cols};
  const View2<int32_t> host = host_kept_.view(1, static_cast<int64_t>(kept_rows_.size()));
  std::ranges::copy(kept_rows_, host.data);
  const View2<int32_t> rows = host_kept_.upload(host, device_kept_);
  const View2<float> unedited_kv = unedited_.view(rows.cols, logits_rv.cols);
  ops_.gather_rows(logits_rv, {rows.data, kept_rows_.size()}, unedited_kv);
  return unedited_kv;
}

void Sampler::edit(View2<float> logits_rv, std::span<const LogitRow> row_r) {
  edited_rows_.clear(), edits_.clear(), allowed_.clear();
  const int64_t words = mask_words(logits_rv.cols);
  for (size_t r = 0; r < row_r.size(); ++r) {
    if (!row_r[r].edited()) continue;
    const LogitEdits& of_row = *row_r[r].sequence->edits;
    const bool masked = !of_row.allowed_w().empty();
    edited_rows_.push_back({.row = static_cast<int64_t>(r),
                            .first_edit = static_cast<int64_t>(edits_.size()),
                            .num_edits = static_cast<int64_t>(of_row.edits().size()),
                            .mask = masked ? static_cast<int64_t>(allowed_.size()) / words : -1});
    edits_.insert(edits_.end(), of_row.edits().begin(), of_row.edits().end());
    allowed_.insert(allowed_.end(), of_row.allowed_w().begin(), of_row.allowed_w().end());
  }
  if (edited_rows_.empty()) return;
  const auto num_masks = static_cast<int64_t>(allowed_.size()) / words;
  ops_.edit_logits(edited_rows_, edits_, {allowed_.data(), num_masks, words}, logits_rv);
}

// The token each row stands for: drawn, or, of a prompt, the one that follows.
void Sampler::draw(View2<const float> logits_rv, std::span<const LogitRow> row_r,
                   std::span<RowResult> result_r) {
  draws_.clear();
  for (size_t r = 0; r < row_r.size(); ++r) {
    const Sequence& s = *row_r[r].sequence;
    const auto next = static_cast<size_t>(row_r[r].position + 1);
    result_r[r] = {};
    if (row_r[r].sampled)
      draws_.push_back({.row = static_cast<int64_t>(r),
                        .rule = s.request.sampling,
                        .u = sampling_uniform(s.request.seed, next)});
    else
      result_r[r].token = s.tokens[next];
  }
  if (draws_.empty()) return;
  tokens_.resize(draws_.size());
  ops_.sample(logits_rv, draws_, tokens_);
  for (size_t i = 0; i < draws_.size(); ++i) result_r[static_cast<size_t>(draws_[i].row)].token = tokens_[i];
}

// Log-probabilities of the rows where they were asked for: of those that were kept, or of the others.
void Sampler::score(View2<const float> logits_rv, std::span<const LogitRow> row_r, bool kept,
                    std::span<RowResult> result_r) {
  scored_rows_.clear(), result_i_.clear();
  for (size_t r = 0; r < row_r.size(); ++r) {
    if (!row_r[r].num_top() || row_r[r].edited() != kept) continue;
    const size_t row = kept ? scored_rows_.size() : r;
    scored_rows_.push_back({static_cast<int64_t>(row), result_r[r].token, *row_r[r].num_top()});
    result_i_.push_back(r);
  }
  if (scored_rows_.empty()) return;
  scores_.resize(scored_rows_.size());
  ops_.token_scores(logits_rv, scored_rows_, scores_);
  for (size_t i = 0; i < scores_.size(); ++i) {
    const TokenScores& scores = scores_[i];
    PositionLogprobs& logprobs = result_r[result_i_[i]].logprobs;
    logprobs.chosen = {scored_rows_[i].token, scores.logprob};
    logprobs.rank = scores.rank;
    const auto num_top = static_cast<size_t>(std::min<int64_t>(scored_rows_[i].num_top, logits_rv.cols));
    for (size_t k = 0; k < num_top; ++k) logprobs.top.push_back({scores.top_id[k], scores.top_logprob[k]});
  }
}

}  // namespace guildhall
