// forward.h: one step of the model, top-down: embed, then per layer attention and MLP or experts, then the
// final norm. Routed experts are reached through the Dispatcher; everything else runs here. A step may run as
// two micro-batches, so that one is in attention while the other is on the wire or in the experts; by the row
// rule the bits are the same. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/matrix_buffer.h"
#include "kernels/team.h"
#include "model/spec.h"
#include "model/weights.h"
#include "router/dispatcher.h"
#include "router/kv_cache.h"
#include "router/step_batch.h"
#include "router/step_clock.h"

namespace guildhall {

class Forward {
 public:
  // All are borrowed and outlive this. Workspace for max_tokens is allocated here; steps allocate nothing.
  Forward(const ModelSpec& spec, const DenseWeights& weights, KvCache& cache, Dispatcher& dispatcher,
          Team& team, StepClock& clock, int64_t max_tokens, int64_t max_position);

  // Runs the batch, as two micro-batches divided before token `split` unless that is 0, and returns the
  // final-normed hidden rows [R,H] of batch.logit_rows, valid until the next call. An error (a worker was
  // lost, a deadline passed) leaves the cache of this step's tokens undefined.
  Result<View2<const float>> run(const StepBatch& batch, int64_t split = 0);

  // Logits [R,V] of some of those rows; R <= kLogitTile. Valid until the next call.
  static constexpr int64_t kLogitTile = 64;  // bounds the memory that prompt scoring takes
  View2<const float> logits(View2<const float> hidden_rh);

 private:
  // Some of the step's tokens, adjacent and in order.
  struct MicroBatch {
    int idx;
    int64_t first_token, num_tokens;
    View2<float> x_th;
    AttentionBatch batch;
  };

  void reserve_attention(int64_t max_tokens);
  void divide(const StepBatch& batch, int64_t split, View2<float> x_th);
  Result<void> run_layer(int64_t layer, const MicroBatch& m);
  void attention(int64_t layer, const MicroBatch& m);
  void gqa(int64_t layer, const AttentionBatch& batch, View2<const float> h_th, View2<float> x_th);
  void mla(int64_t layer, const AttentionBatch& batch, View2<const float> h_th, View2<float> x_th);
  View2<const float> mla_queries(const MlaSpec& spec, const MlaWeights& w, View2<const float> h_th);
  Result<void> feed_forward(int64_t layer, const MicroBatch& m);
  Result<void> dispatch(int64_t layer, const MicroBatch& m, const MoeWeights& w, View2<const float> h_th);
  Result<void> combine(int64_t layer, const MicroBatch& m);
  void mlp(const MlpWeights& w, View2<const float> h_th, View2<float> x_th);
  View2<const float> final_rows(const StepBatch& batch, View2<const float> x_th);

  const ModelSpec& spec_;
  const DenseWeights& weights_;
  KvCache& cache_;
  Dispatcher& dispatcher_;
  Team& team_;
  StepClock& clock_;
  RopeTable rope_;
  std::vector<MicroBatch> parts_;  // of the step: one or two
  // Of the whole step, as a micro-batch's stay in use while the other runs.
  MatrixBuffer x_;               // [T,H]
  std::vector<int32_t> expert_;  // [T,K]
  std::vector<float> weight_;    // [T,K]
  // Of the micro-batch that runs.
  MatrixBuffer h_, q_, q_low_, k_, v_, latent_, absorbed_, context_, attended_, gate_up_, act_, gate_logits_,
      final_, logits_;
};

}  // namespace guildhall
