// forward.h: one step of the model, top-down: embed, then per layer attention and MLP or experts, then the
// final norm. Routed experts are reached through the Dispatcher; everything else runs here. Owner: the engine
// thread.
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

  // Runs the batch and returns the final-normed hidden rows [R,H] of batch.logit_rows, valid until the next
  // call. An error (a worker was lost, a deadline passed) leaves the cache of this step's tokens undefined.
  Result<View2<const float>> run(const StepBatch& batch);

  // Logits [R,V] of some of those rows; R <= kLogitTile. Valid until the next call.
  static constexpr int64_t kLogitTile = 64;  // bounds the memory that prompt scoring takes
  View2<const float> logits(View2<const float> hidden_rh);

 private:
  void reserve_attention(int64_t max_tokens);
  void attention(int64_t layer, const StepBatch& batch, View2<float> x_th);
  void gqa(int64_t layer, const StepBatch& batch, View2<const float> h_th, View2<float> x_th);
  void mla(int64_t layer, const StepBatch& batch, View2<const float> h_th, View2<float> x_th);
  View2<const float> mla_queries(const MlaSpec& spec, const MlaWeights& w, View2<const float> h_th);
  Result<void> feed_forward(int64_t layer, View2<float> x_th);
  Result<void> experts(int64_t layer, const MoeWeights& w, View2<const float> h_th, View2<float> x_th);
  void mlp(const MlpWeights& w, View2<const float> h_th, View2<float> x_th);
  View2<const float> final_rows(const StepBatch& batch, View2<const float> x_th);

  const ModelSpec& spec_;
  const DenseWeights& weights_;
  KvCache& cache_;
  Dispatcher& dispatcher_;
  Team& team_;
  StepClock& clock_;
  RopeTable rope_;
  MatrixBuffer x_, h_, q_, q_low_, k_, v_, latent_, absorbed_, context_, attended_, gate_up_, act_,
      gate_logits_, weight_, final_, logits_;
  std::vector<int32_t> expert_;  // [T,K]
};

}  // namespace guildhall
