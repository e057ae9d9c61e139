// sampler.h: from logits to tokens: each row's own edits, the draw, and the log-probabilities that were asked
// for, which are those of the model before any edit and at temperature 1. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device_buffers.h"
#include "kernels/ops.h"
#include "router/sequence.h"

namespace guildhall {

// What one logits row is for.
struct LogitRow {
  const Sequence* sequence;
  int64_t position;  // of the token it stands on
  bool sampled;      // else it scores the token of the prompt that follows

  // Alternatives whose log-probabilities are wanted; unset: no log-probabilities at all.
  const std::optional<int>& num_top() const {
    return sampled ? sequence->request.num_logprobs : sequence->request.num_prompt_logprobs;
  }
  bool edited() const { return sampled && sequence->edits && sequence->edits->any(); }
};

// What it came to.
struct RowResult {
  int32_t token = 0;
  PositionLogprobs logprobs;
};

class Sampler {
 public:
  explicit Sampler(Ops& ops) : ops_(ops) {}

  // The logits, on the device, are written over.
  void run(View2<float> logits_rv, std::span<const LogitRow> row_r, std::span<RowResult> result_r);

 private:
  View2<const float> keep_unedited(View2<const float> logits_rv, std::span<const LogitRow> row_r);
  void edit(View2<float> logits_rv, std::span<const LogitRow> row_r);
  void draw(View2<const float> logits_rv, std::span<const LogitRow> row_r, std::span<RowResult> result_r);
  void score(View2<const float> logits_rv, std::span<const LogitRow> row_r, bool kept,
             std::span<RowResult> result_r);

  Ops& ops_;
  // Of a tile of logits.
  std::vector<int32_t> kept_rows_;  // that are edited and scored, ascending
  std::vector<EditedRow> edited_rows_;
  std::vector<LogitEdit> edits_;
  std::vector<uint32_t> allowed_;  // masks, one behind the other
  std::vector<SampleDraw> draws_;
  std::vector<int32_t> tokens_;  // what they came to
  std::vector<ScoredRow> scored_rows_;
  std::vector<size_t> result_i_;  // whose scores they are
  std::vector<TokenScores> scores_;
  HostMatrix<int32_t> host_kept_{ops_};
  DeviceMatrix<int32_t> device_kept_{ops_};
  DeviceMatrix<float> unedited_{ops_};  // [kept_rows_, V]
};

}  // namespace guildhall
