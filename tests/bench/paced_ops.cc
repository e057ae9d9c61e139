#include "tests/bench/paced_ops.h"

#include <thread>

#include "base/clock.h"

namespace guildhall {
namespace {

class PacedOps final : public Ops {
 public:
  PacedOps(std::unique_ptr<Ops> ops, const Pace& pace)
      : Ops({.num_threads = 1}), ops_(std::move(ops)), pace_(pace) {}

  void expert_ffn(View2<const float> x_rh, std::span<const int32_t> offset_e,
                  std::span<const ExpertWeightView> experts, View2<float> hidden_rf,
                  View2<float> y_rh) override {
    const auto begin = Clock::now();
    ops_->expert_ffn(x_rh, offset_e, experts, hidden_rf, y_rh);
    int64_t num_active = 0;
    for (size_t e = 0; e + 1 < offset_e.size(); ++e) num_active += offset_e[e + 1] > offset_e[e] ? 1 : 0;
    std::this_thread::sleep_until(begin + pace_.pair * x_rh.rows + pace_.activation * num_active);
  }

  // As they are.
  DeviceMemory& memory() override { return ops_->memory(); }
  void upload(const void* host, void* device, size_t bytes) override { ops_->upload(host, device, bytes); }
  void download(const void* device, void* host, size_t bytes) override {
    ops_->download(device, host, bytes);
  }
  void copy_bytes(const void* from, void* to, size_t bytes) override { ops_->copy_bytes(from, to, bytes); }
  Mark mark() override { return ops_->mark(); }
  void wait(Mark mark, const char* what) override { ops_->wait(mark, what); }
  void replay(const RecordKey& key, const std::function<void()>& body) override { ops_->replay(key, body); }
  void embedding(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) override {
    ops_->embedding(ids_t, w_vh, x_th);
  }
  void rmsnorm(View2<const float> x_th, std::span<const float> weight_h, float eps,
               View2<float> y_th) override {
    ops_->rmsnorm(x_th, weight_h, eps, y_th);
  }
  void add(View2<const float> y_th, View2<float> x_th) override { ops_->add(y_th, x_th); }
  void linear(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
              View2<float> y_tn) override {
    ops_->linear(x_tk, w_nk, options, y_tn);
  }
  void linear_heads(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) override {
    ops_->linear_heads(x_thk, w_hnk, y_thn);
  }
  void rope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
            View3<float> x_thd) override {
    ops_->rope(table, pairing, positions_t, x_thd);
  }
  void kv_write(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                const KvPages& pages) override {
    ops_->kv_write(k_thd, v_thd, batch, pages);
  }
  void paged_attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                       float scale, View3<float> out_thd) override {
    ops_->paged_attention(q_thd, batch, pages, scale, out_thd);
  }
  void swiglu(View2<const float> gate_up_t2f, View2<float> y_tf) override { ops_->swiglu(gate_up_t2f, y_tf); }
  void gate_topk(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                 View2<int32_t> expert_tk, View2<float> weight_tk) override {
    ops_->gate_topk(logits_te, bias_e, rule, expert_tk, weight_tk);
  }
  void gather_rows(View2<const float> x_th, std::span<const int32_t> row_i, View2<float> y_ih) override {
    ops_->gather_rows(x_th, row_i, y_ih);
  }
  void copy(View3<const float> x_thd, View3<float> y_thd) override { ops_->copy(x_thd, y_thd); }
  void fill_zero(View2<float> x_th) override { ops_->fill_zero(x_th); }
  void permute(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
               View2<float> grouped_ph) override {
    ops_->permute(x_th, row_p, position_p, grouped_ph);
  }
  void combine(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
               View2<float> y_th) override {
    ops_->combine(rows_ph, index_tk, weight_tk, y_th);
  }
  void encode_rows(Codec codec, View2<const float> x_th, std::byte* rows) override {
    ops_->encode_rows(codec, x_th, rows);
  }
  void decode_rows(Codec codec, const std::byte* rows, View2<float> x_th) override {
    ops_->decode_rows(codec, rows, x_th);
  }
  void combine_encoded(Codec codec, View2<const std::byte* const> row_tk, bool are_wide,
                       View2<const float> weight_tk, View2<float> y_th) override {
    ops_->combine_encoded(codec, row_tk, are_wide, weight_tk, y_th);
  }
  void edit_logits(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                   View2<const uint32_t> allowed_mw, View2<float> logits_rv) override {
    ops_->edit_logits(row_i, edit_e, allowed_mw, logits_rv);
  }
  void sample(View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
              std::span<int32_t> token_i) override {
    ops_->sample(logits_rv, draw_i, token_i);
  }
  void token_scores(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                    std::span<TokenScores> scores_i) override {
    ops_->token_scores(logits_rv, row_i, scores_i);
  }

 private:
  const std::unique_ptr<Ops> ops_;
  const Pace pace_;
};

}  // namespace

std::unique_ptr<Ops> make_paced_ops(std::unique_ptr<Ops> ops, const Pace& pace) {
  return std::make_unique<PacedOps>(std::move(ops), pace);
}

}  // namespace guildhall
