// ops.h: the ops that the forward pass and the expert worker are written over, whatever device runs them.
// Views and spans carry the device's pointers unless a comment says host; shapes and preconditions are those
// of each kernel's own header. An op may only be enqueued when its call returns: ops run in the order of
// their calls, and the host learns of results by download(), mark() and wait() alone. On the CPU a call is
// the work itself and transfers are nothing. Implementations: cpu_ops.h, cuda/cuda_ops.h. One owner thread,
// but for memory().
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/stream.h"
#include "kernels/device_memory.h"
#include "kernels/expert_ffn.h"
#include "kernels/gate_topk.h"
#include "kernels/linear.h"
#include "kernels/logit_edits.h"
#include "kernels/paged_attention.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "kernels/team.h"
#include "kernels/token_scores.h"
#include "kernels/view.h"
#include "proto/exchange.h"

namespace guildhall {

class Ops {
 public:
  explicit Ops(TeamOptions team) : team_(team) {}
  virtual ~Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;

  virtual DeviceMemory& memory() = 0;
  // Host threads: of the CPU's kernels, and of what the host does beside a device (packing, summing).
  Team& team() { return team_; }

  // What kernels are enqueued on, for libraries that enqueue there too; the device becomes the calling
  // thread's. Null: the CPU.
  virtual CudaStream stream() { return nullptr; }

  // ---- between host and device ----
  // Host memory must be pinned and stay as it is until a mark made after the call was waited for. On the CPU
  // host == device, and the calls do nothing.
  virtual void upload(const void* host, void* device, size_t bytes) = 0;
  virtual void download(const void* device, void* host, size_t bytes) = 0;
  // From one place on the device to another, in the order of the ops around it.
  virtual void copy_bytes(const void* from, void* to, size_t bytes) = 0;
  // A point in the order of transfers. wait(mark) returns when all transfers enqueued before it are done; it
  // does not wait for kernels enqueued after the last of them. A device shows a wait in the trace under the
  // name `what`, a literal that begins with "wait ".
  using Mark = uint64_t;
  virtual Mark mark() = 0;
  virtual void wait(Mark mark, const char* what) = 0;

  // ---- recording ----
  // Whether replay() repeats what it has seen cheaper than a call would.
  virtual bool records() const { return false; }
  // Enqueues what `body` enqueues. A device may record it at the first call with `key` and repeat the record
  // after that, so `body` must be ops only, the same on the same addresses for the same key. Arrays that
  // change in between lie at fixed addresses.
  using RecordKey = std::array<int64_t, 5>;
  virtual void replay(const RecordKey& key, const std::function<void()>& body) = 0;

  // ---- the dense layers ----
  virtual void embedding(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) = 0;
  virtual void rmsnorm(View2<const float> x_th, std::span<const float> weight_h, float eps,
                       View2<float> y_th) = 0;
  virtual void add(View2<const float> y_th, View2<float> x_th) = 0;
  virtual void linear(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
                      View2<float> y_tn) = 0;
  virtual void linear_heads(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) = 0;
  // `table` is the host's and outlives this: a device copies it at its first use.
  virtual void rope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
                    View3<float> x_thd) = 0;
  virtual void kv_write(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                        const KvPages& pages) = 0;
  virtual void paged_attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                               float scale, View3<float> out_thd) = 0;
  virtual void swiglu(View2<const float> gate_up_t2f, View2<float> y_tf) = 0;
  virtual void gate_topk(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                         View2<int32_t> expert_tk, View2<float> weight_tk) = 0;
  // y[i] = x[row_i[i]].
  virtual void gather_rows(View2<const float> x_th, std::span<const int32_t> row_i, View2<float> y_ih) = 0;
  // y = x, of equal shape; strides may differ.
  virtual void copy(View3<const float> x_thd, View3<float> y_thd) = 0;
  virtual void fill_zero(View2<float> x_th) = 0;

  // ---- experts ----
  virtual void permute(View2<const float> x_th, std::span<const int32_t> row_p,
                       std::span<const int32_t> position_p, View2<float> grouped_ph) = 0;
  // offset_e and the list of experts are the host's; the weights in it are the device's.
  virtual void expert_ffn(View2<const float> x_rh, std::span<const int32_t> offset_e,
                          std::span<const ExpertWeightView> experts, View2<float> hidden_rf,
                          View2<float> y_rh) = 0;
  virtual void combine(View2<const float> rows_ph, View2<const int32_t> index_tk,
                       View2<const float> weight_tk, View2<float> y_th) = 0;

  // ---- rows as they travel ----
  // On the device, one behind another (row_codec.h).
  virtual void encode_rows(Codec codec, View2<const float> x_th, std::byte* rows) = 0;
  virtual void decode_rows(Codec codec, const std::byte* rows, View2<float> x_th) = 0;
  // y_th[t] += sum over k of weight_tk[t,k] * row_tk[t,k], as combine_encoded_cuda().
  virtual void combine_encoded(Codec codec, View2<const std::byte* const> row_tk, bool are_wide,
                               View2<const float> weight_tk, View2<float> y_th) = 0;

  // ---- sampling: all but the logits is the host's ----
  virtual void edit_logits(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                           View2<const uint32_t> allowed_mw, View2<float> logits_rv) = 0;
  // token_i[i] is drawn from row draw_i[i].row. Returns when they are there.
  virtual void sample(View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
                      std::span<int32_t> token_i) = 0;
  // Returns when the scores are there.
  virtual void token_scores(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                            std::span<TokenScores> scores_i) = 0;

 private:
  Team team_;
};

}  // namespace guildhall
