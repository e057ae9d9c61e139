#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "kernels/combine.h"
#include "kernels/combine_encoded.h"
#include "kernels/copy.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/graphs.h"
#include "kernels/cuda/memory.h"
#include "kernels/device_buffers.h"
#include "kernels/embedding.h"
#include "kernels/permute.h"
#include "kernels/rmsnorm.h"
#include "kernels/row_codec.h"
#include "kernels/swiglu.h"

namespace guildhall {
namespace {

class CudaOps final : public Ops {
 public:
  CudaOps(std::shared_ptr<CudaDevice> device, const CudaOpsOptions& options)
      : Ops(options.team),
        device_(std::move(device)),
        records_(options.record),
        memory_(device_),
        graphs_(device_->compute()) {}
  Result<void> start() {
    GH_ASSIGN(blas_, Blas::create(memory_, device_->compute(), 0));
    return {};
  }
  ~CudaOps() override {
    device_->make_current();
    cudaStreamSynchronize(device_->compute());
    cudaStreamSynchronize(device_->communication());
  }

  DeviceMemory& memory() override { return memory_; }
  CudaStream stream() override {
    device_->make_current();
    return device_->compute();
  }

  void upload(const void* host, void* device, size_t bytes) override {
    transfer(device, host, bytes, cudaMemcpyHostToDevice);
    communicated_.record(device_->communication());
    communicated_.wait_on(device_->compute());
  }
  void download(const void* device, void* host, size_t bytes) override {
    transfer(host, device, bytes, cudaMemcpyDeviceToHost);
  }
  void copy_bytes(const void* from, void* to, size_t bytes) override {
    cuda_must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "cudaMemcpyAsync");
  }
  Mark mark() override {
    device_->make_current();
    mark_i_[++last_mark_ % mark_i_.size()].record(device_->communication());
    return last_mark_;
  }
  // An event serves marks in turn: waiting for a later one is waiting for both.
  void wait(Mark mark, const char* what) override {
    if (mark <= passed_) return;
    mark_i_[mark % mark_i_.size()].wait(what);
    passed_ = mark;
  }

  bool records() const override { return records_; }
  // A record holds the addresses of workspaces: one that has grown since makes it void.
  void replay(const RecordKey& key, const std::function<void()>& body) override {
    device_->make_current();
    const Workspaces now{blas_->scratch(0), attention_workspace_.view(1, 0).data};
    if (now != recorded_with_) graphs_.clear();
    recorded_with_ = now;
    graphs_.replay(key, body);
  }

  void embedding(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) override {
    embedding_cuda(stream(), ids_t, w_vh, x_th);
  }
  void rmsnorm(View2<const float> x_th, std::span<const float> weight_h, float eps,
               View2<float> y_th) override {
    rmsnorm_cuda(stream(), x_th, weight_h, eps, y_th);
  }
  void add(View2<const float> y_th, View2<float> x_th) override { add_cuda(stream(), y_th, x_th); }
  void linear(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
              View2<float> y_tn) override {
    device_->make_current();
    linear_cuda(*blas_, x_tk, w_nk, options, y_tn);
  }
  void linear_heads(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) override {
    device_->make_current();
    linear_heads_cuda(*blas_, x_thk, w_hnk, y_thn);
  }
  void rope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
            View3<float> x_thd) override {
    rope_cuda(stream(), on_device(table), pairing, positions_t, x_thd);
  }
  void kv_write(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                const KvPages& pages) override {
    kv_write_cuda(stream(), k_thd, v_thd, batch, pages);
  }
  void paged_attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                       float scale, View3<float> out_thd) override;
  void swiglu(View2<const float> gate_up_t2f, View2<float> y_tf) override {
    swiglu_cuda(stream(), gate_up_t2f, y_tf);
  }
  void gate_topk(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                 View2<int32_t> expert_tk, View2<float> weight_tk) override {
    gate_topk_cuda(stream(), logits_te, bias_e, rule, expert_tk, weight_tk);
  }
  void gather_rows(View2<const float> x_th, std::span<const int32_t> row_i, View2<float> y_ih) override {
    unpermute_cuda(stream(), x_th, row_i, y_ih);
  }
  void copy(View3<const float> x_thd, View3<float> y_thd) override { copy_cuda(stream(), x_thd, y_thd); }
  void fill_zero(View2<float> x_th) override;

  void permute(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
               View2<float> grouped_ph) override {
    permute_cuda(stream(), x_th, row_p, position_p, grouped_ph);
  }
  void expert_ffn(View2<const float> x_rh, std::span<const int32_t> offset_e,
                  std::span<const ExpertWeightView> experts, View2<float> hidden_rf,
                  View2<float> y_rh) override {
    device_->make_current();
    expert_ffn_cuda(*blas_, x_rh, offset_e, experts, hidden_rf, y_rh);
  }
  void combine(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
               View2<float> y_th) override {
    combine_cuda(stream(), rows_ph, index_tk, weight_tk, y_th);
  }
  void encode_rows(Codec codec, View2<const float> x_th, std::byte* rows) override {
    encode_rows_cuda(stream(), codec, x_th, rows);
  }
  void decode_rows(Codec codec, const std::byte* rows, View2<float> x_th) override {
    decode_rows_cuda(stream(), codec, rows, x_th);
  }
  void combine_encoded(Codec codec, View2<const std::byte* const> row_tk, bool are_wide,
                       View2<const float> weight_tk, View2<float> y_th) override {
    combine_encoded_cuda(stream(), codec, row_tk, are_wide, weight_tk, y_th);
  }
  void edit_logits(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                   View2<const uint32_t> allowed_mw, View2<float> logits_rv) override;
  void sample(View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
              std::span<int32_t> token_i) override;
  void token_scores(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                    std::span<TokenScores> scores_i) override;

 private:
  using Workspaces = std::array<const std::byte*, 2>;
  struct RopeCopy {
    MemoryBlock data;  // cos, then sin
    RopeTableView view;
  };

  // A list of the host's on its way to the device and back.
  template <class T>
  struct Carried {
    explicit Carried(Ops& ops) : device(ops), host(ops) {}
    // The device's copy of `items`.
    std::span<const T> send(std::span<const T> items) {
      const View2<T> mirror = host.view(1, static_cast<int64_t>(items.size()));
      std::ranges::copy(items, mirror.data);
      return {host.upload(mirror, device).data, items.size()};
    }
    std::span<T> room(size_t size) { return {device.view(1, static_cast<int64_t>(size)).data, size}; }
    // Returns when they are there.
    void fetch(std::span<T> items, const char* what) {
      const auto size = static_cast<int64_t>(items.size());
      const View2<T> mirror = host.download(device.view(1, size));
      host.wait(what);
      std::copy_n(mirror.data, size, items.data());
    }
    DeviceMatrix<T> device;
    HostMatrix<T> host;
  };

  void transfer(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
  const RopeTableView& on_device(const RopeTable& table);

  std::shared_ptr<CudaDevice> device_;
  const bool records_;
  CudaMemory memory_;
  std::unique_ptr<Blas> blas_;
  CudaGraphs graphs_;
  Workspaces recorded_with_{};
  CudaEvent computed_, communicated_;  // of the last transfer: what it waited for, and its end
  std::array<CudaEvent, 64> mark_i_;
  Mark last_mark_ = 0, passed_ = 0;
  std::map<const RopeTable*, RopeCopy> rope_;
  DeviceMatrix<std::byte> attention_workspace_{*this};
  Carried<EditedRow> edited_rows_{*this};
  Carried<LogitEdit> edits_{*this};
  Carried<uint32_t> allowed_{*this};
  Carried<SampleDraw> draws_{*this};
  Carried<int32_t> tokens_{*this};
  Carried<ScoredRow> scored_rows_{*this};
  Carried<TokenScores> scores_{*this};
};

// A transfer begins when the kernels before it are done.
void CudaOps::transfer(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  computed_.record(stream());
  computed_.wait_on(device_->communication());
  cuda_must(cudaMemcpyAsync(to, from, bytes, kind, device_->communication()), "cudaMemcpyAsync");
}

const RopeTableView& CudaOps::on_device(const RopeTable& table) {
  const auto [at, is_new] = rope_.try_emplace(&table);
  RopeCopy& copy = at->second;
  if (!is_new) return copy.view;
  const size_t n = table.cos_pd.size();
  const auto bytes = static_cast<int64_t>(n * sizeof(float));
  copy.data = memory_.allocate(2 * bytes).value();
  float* cos = reinterpret_cast<float*>(copy.data.get());
  memory_.upload(std::as_bytes(std::span(table.cos_pd)), copy.data.get()).value();
  memory_.upload(std::as_bytes(std::span(table.sin_pd)), copy.data.get() + bytes).value();
  copy.view = {.dim = table.dim, .cos_pd = {cos, n}, .sin_pd = {cos + n, n}};
  return copy.view;
}

void CudaOps::paged_attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                              float scale, View3<float> out_thd) {
  const int64_t bytes =
      paged_attention_cuda_workspace(q_thd.dim0, q_thd.dim1, pages, batch.bounds.max_context);
  const View2<std::byte> workspace = attention_workspace_.view(1, bytes);
  paged_attention_cuda(stream(), q_thd, batch, pages, scale, {workspace.data, static_cast<size_t>(bytes)},
                       out_thd);
}

void CudaOps::fill_zero(View2<float> x_th) {
  GH_CHECK(x_th.stride == x_th.cols);
  if (x_th.rows * x_th.cols == 0) return;
  cuda_must(
      cudaMemsetAsync(x_th.data, 0, static_cast<size_t>(x_th.rows * x_th.cols) * sizeof(float), stream()),
      "cudaMemsetAsync");
}

void CudaOps::edit_logits(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                          View2<const uint32_t> allowed_mw, View2<float> logits_rv) {
  GH_CHECK(allowed_mw.stride == allowed_mw.cols);
  const auto rows = edited_rows_.send(row_i);
  const auto edits = edits_.send(edit_e);
  const auto allowed =
      allowed_.send({allowed_mw.data, static_cast<size_t>(allowed_mw.rows * allowed_mw.cols)});
  edit_logits_cuda(stream(), rows, edits, {allowed.data(), allowed_mw.rows, allowed_mw.cols}, logits_rv);
}

void CudaOps::sample(View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
                     std::span<int32_t> token_i) {
  const auto draws = draws_.send(draw_i);
  sample_cuda(stream(), logits_rv, draws, tokens_.room(token_i.size()));
  tokens_.fetch(token_i, "wait tokens");
}

void CudaOps::token_scores(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                           std::span<TokenScores> scores_i) {
  const auto rows = scored_rows_.send(row_i);
  token_scores_cuda(stream(), logits_rv, rows, scores_.room(scores_i.size()));
  scores_.fetch(scores_i, "wait scores");
}

}  // namespace

Result<std::unique_ptr<Ops>> make_cuda_ops(int index, const CudaOpsOptions& options) {
  GH_ASSIGN(std::shared_ptr<CudaDevice> device, CudaDevice::open(index));
  auto ops = std::make_unique<CudaOps>(std::move(device), options);
  GH_TRY(ops->start());
  return ops;
}

int num_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) cudaGetLastError(), count = 0;
  return count;
}

}  // namespace guildhall
