// forward.h: one step of the model, top-down: embed, then per layer attention and MLP or experts, then the
// final norm. Routed experts are reached through the Dispatcher; everything else runs here. A step may run as
// two micro-batches, so that one is in attention while the other is on the wire or in the experts; by the row
// rule the bits are the same. Written over Ops: on a device, rows come to the host to be dispatched, and
// answers go back; that exchange is what the host waits for in a step.
//
// Under tensor parallelism each rank has a Forward of its shard. All run the same step: every rank has all
// rows of x, computes its part of what is added to them (its heads after o_proj, its columns after an MLP's
// down), and adds all parts. Rank 0 alone chooses experts and exchanges rows; what comes back is in its part
// of the MLP's sum. Owner: the engine thread, or the rank's.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"
#include "kernels/device_buffers.h"
#include "kernels/ops.h"
#include "model/shard.h"
#include "model/spec.h"
#include "model/weights.h"
#include "router/collective.h"
#include "router/dispatcher.h"
#include "router/exchange_rows.h"
#include "router/kv_cache.h"
#include "router/routed_experts.h"
#include "router/step_batch.h"
#include "router/step_clock.h"

namespace guildhall {

struct ForwardRank {
  const ModelShard* shard = nullptr;  // null: the whole model
  Collective* collective = nullptr;   // null: alone
};

class Forward {
 public:
  // All are borrowed and outlive this; weights and cache are in the memory of `ops`. Workspace for max_tokens
  // is allocated here; steps allocate nothing. A rank's spec is its shard's; ranks but the first have no
  // dispatcher.
  Forward(const ModelSpec& spec, const DenseWeights& weights, KvCache& cache, Dispatcher* dispatcher,
          Ops& ops, StepClock& clock, int64_t max_tokens, int64_t max_position, const ForwardRank& rank = {});

  // Runs the batch, as two micro-batches divided before token `split` unless that is 0, and returns the
  // final-normed hidden rows [R,H] of batch.logit_rows, on the device, valid until the next call. An error (a
  // worker was lost, a deadline passed) leaves the cache of this step's tokens undefined.
  Result<View2<const float>> run(const StepBatch& batch, int64_t split = 0);
  // What the gates of the last run chose for batch.routed_rows.
  const RoutedExperts& routed_experts() const { return routed_experts_; }

  // Runs the largest steps, all but their exchange: a prompt of max_tokens, then a decode step of
  // max_sequences at the longest context. What steps take from a device is taken when it returns. The cache
  // must hold max_tokens; what is in it is overwritten.
  void rehearse(int64_t max_sequences);

  // Logits [R,V] of some of those rows, on the device; R <= kLogitTile. Valid until the next call. Of ranks,
  // the first's are whole.
  static constexpr int64_t kLogitTile = 64;  // bounds the memory that prompt scoring takes
  View2<float> logits(View2<const float> hidden_rh);

 private:
  // Some of the step's tokens, adjacent and in order. x_th may have rows beyond them: padding.
  struct MicroBatch {
    int idx;
    int64_t first_token, num_tokens;
    View2<float> x_th;
    AttentionBatch batch;
  };

  // A layer's choices, on the device.
  struct Choices {
    View2<int32_t> expert_tk;
    View2<float> weight_tk;
  };

  void reserve_attention(int64_t max_tokens);
  void rehearse_step(const StepBatch& batch, int64_t max_context);
  const StepBatch& shaped(const StepBatch& batch, int64_t split);
  void upload(const StepBatch& batch);
  void divide(const StepBatch& batch, int64_t split, View2<float> x_th);
  Result<void> run_layer(int64_t layer, const MicroBatch& m);
  void until_exchange(int64_t layer, const MicroBatch& m);
  void attention(int64_t layer, const MicroBatch& m);
  void gqa(int64_t layer, const MicroBatch& m, View2<const float> h_th);
  void mla(int64_t layer, const MicroBatch& m, View2<const float> h_th);
  View2<const float> mla_queries(const MlaSpec& spec, const MlaWeights& w, View2<const float> h_th);
  Result<void> exchange(int64_t layer, const MicroBatch& m);
  Choices choices(const MicroBatch& m);
  void gate(int64_t layer, const MicroBatch& m, const MoeWeights& w, View2<const float> h_th);
  View2<const int32_t> predict(int64_t layer, const MicroBatch& m);
  std::optional<int64_t> next_moe_layer(int64_t layer) const;
  void shared_experts(int64_t layer, const MicroBatch& m, const MlpWeights& w);
  RowOwners owners(const MicroBatch& m) const;
  Result<void> dispatch(int64_t layer, const MicroBatch& m);
  Result<void> combine(int64_t layer, const MicroBatch& m);
  View2<const float> activated(const MlpWeights& w, View2<const float> h_th);
  void mlp(const MlpWeights& w, View2<const float> h_th, View2<float> x_th);
  View2<const float> final_rows(const StepBatch& batch, View2<const float> x_th);

  // What ranks do together (forward_ranks.cc).
  void reserve_parts(int64_t max_tokens);
  std::span<const int32_t> ids_here(const StepBatch& batch);
  void embed(View2<float> x_th);
  void add_linear(View2<const float> y_tk, WeightView w_hk, std::span<const float> bias_h,
                  DeviceMatrix<float>& part, View2<float> x_th);
  Result<void> together() const;

  const ModelSpec& spec_;
  const DenseWeights& weights_;
  KvCache& cache_;
  Dispatcher* const dispatcher_;
  Ops& ops_;
  StepClock& clock_;
  const ForwardRank rank_;
  const int64_t max_tokens_;
  RopeTable rope_;
  std::vector<MicroBatch> parts_;  // of the step: one or two
  RowOwners owners_;               // of the step's rows; empty: nobody's
  StepBatch padded_;               // a decode step in a shape that recurs
  int64_t recorded_context_ = 0;   // what it is recorded for; 0: the step under way is not of such a shape
  enum Array { kIds, kPosition, kSequence, kLogitRows, kBlockTable, kNumArrays };
  DeviceArrays<kNumArrays> arrays_;
  std::optional<ExchangeRows> rows_;  // where there is a dispatcher
  RoutedExperts routed_experts_;
  // Of the whole step, as a micro-batch's stay in use while the other runs.
  DeviceMatrix<float> x_{ops_};            // [T,H]
  DeviceMatrix<int32_t> expert_{ops_};     // [T,K]
  DeviceMatrix<float> weight_{ops_};       // [T,K]
  DeviceMatrix<int32_t> predicted_{ops_};  // [T,K] of the micro-batch that runs
  DeviceMatrix<float> predicted_weight_{ops_};
  HostMatrix<int32_t> predicted_here_{ops_};
  // A rank's parts of sums, per micro-batch [T,H], and of logits; its ids.
  struct Parts {
    explicit Parts(Ops& ops) : attention(ops), mlp(ops) {}
    DeviceMatrix<float> attention, mlp;
  };
  std::array<Parts, 2> part_m_{Parts{ops_}, Parts{ops_}};
  DeviceMatrix<float> logits_part_{ops_};
  std::vector<int32_t> ids_here_t_;
  // Of the micro-batch that runs.
  DeviceMatrix<float> h_{ops_}, q_{ops_}, q_low_{ops_}, k_{ops_}, v_{ops_}, latent_{ops_}, absorbed_{ops_},
      context_{ops_}, attended_{ops_}, gate_up_{ops_}, act_{ops_}, gate_logits_{ops_}, final_{ops_},
      logits_{ops_};
};

}  // namespace guildhall
