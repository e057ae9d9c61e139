#include "kernels/cpu_ops.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/combine.h"
#include "kernels/combine_encoded.h"
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/parallel_rows.h"
#include "kernels/permute.h"
#include "kernels/rmsnorm.h"
#include "kernels/row_codec.h"
#include "kernels/swiglu.h"

namespace guildhall {
namespace {

class CpuOps final : public Ops {
 public:
  CpuOps(TeamOptions team, DeviceMemory& memory) : Ops(team), memory_(memory) {}

  DeviceMemory& memory() override { return memory_; }

  void upload(const void* host, void* device, size_t) override { GH_CHECK(host == device); }
  void download(const void* device, void* host, size_t) override { GH_CHECK(host == device); }
  void copy_bytes(const void* from, void* to, size_t bytes) override { std::memcpy(to, from, bytes); }
  Mark mark() override { return 0; }
  void wait(Mark, const char*) override {}
  void replay(const RecordKey&, const std::function<void()>& body) override { body(); }

  void embedding(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th) override {
    embedding_cpu(ids_t, w_vh, x_th);
  }
  void rmsnorm(View2<const float> x_th, std::span<const float> weight_h, float eps,
               View2<float> y_th) override {
    rmsnorm_cpu(team(), x_th, weight_h, eps, y_th);
  }
  void add(View2<const float> y_th, View2<float> x_th) override { add_cpu(team(), y_th, x_th); }
  void linear(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
              View2<float> y_tn) override {
    linear_cpu(team(), x_tk, w_nk, options, y_tn);
  }
  void linear_heads(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) override {
    linear_heads_cpu(team(), x_thk, w_hnk, y_thn);
  }
  void rope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
            View3<float> x_thd) override {
    rope_cpu(team(), table, pairing, positions_t, x_thd);
  }
  void kv_write(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                const KvPages& pages) override {
    kv_write_cpu(team(), k_thd, v_thd, batch, pages);
  }
  void paged_attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                       float scale, View3<float> out_thd) override {
    paged_attention_cpu(team(), q_thd, batch, pages, scale, out_thd);
  }
  void swiglu(View2<const float> gate_up_t2f, View2<float> y_tf) override {
    swiglu_cpu(team(), gate_up_t2f, y_tf);
  }
  void gate_topk(View2<const float> logits_te, std::span<const float> bias_e, const GateRule& rule,
                 View2<int32_t> expert_tk, View2<float> weight_tk) override {
    gate_topk_cpu(logits_te, bias_e, rule, expert_tk, weight_tk);
  }
  void gather_rows(View2<const float> x_th, std::span<const int32_t> row_i, View2<float> y_ih) override {
    unpermute_cpu(x_th, row_i, y_ih);
  }
  void copy(View3<const float> x_thd, View3<float> y_thd) override { copy_cpu(x_thd, y_thd); }
  void fill_zero(View2<float> x_th) override {
    for (int64_t t = 0; t < x_th.rows; ++t) std::fill_n(x_th.row(t), x_th.cols, 0.0f);
  }

  void permute(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
               View2<float> grouped_ph) override {
    permute_cpu(x_th, row_p, position_p, grouped_ph);
  }
  void expert_ffn(View2<const float> x_rh, std::span<const int32_t> offset_e,
                  std::span<const ExpertWeightView> experts, View2<float> hidden_rf,
                  View2<float> y_rh) override {
    expert_ffn_cpu(team(), x_rh, offset_e, experts, hidden_rf, y_rh);
  }
  void combine(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
               View2<float> y_th) override {
    parallel_rows(team(), y_th.rows, y_th.cols * index_tk.cols, [&](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      combine_cpu(rows_ph, index_tk.sub_rows(begin, n), weight_tk.sub_rows(begin, n),
                  y_th.sub_rows(begin, n));
    });
  }

  void encode_rows(Codec codec, View2<const float> x_th, std::byte* rows) override {
    const auto bytes = static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(x_th.cols)));
    parallel_rows(team(), x_th.rows, x_th.cols, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        encode_row(codec, {x_th.row(t), static_cast<size_t>(x_th.cols)}, rows + t * bytes);
    });
  }
  void decode_rows(Codec codec, const std::byte* rows, View2<float> x_th) override {
    const auto bytes = static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(x_th.cols)));
    parallel_rows(team(), x_th.rows, x_th.cols, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        decode_row(codec, rows + t * bytes, {x_th.row(t), static_cast<size_t>(x_th.cols)});
    });
  }
  void combine_encoded(Codec codec, View2<const std::byte* const> row_tk, bool, View2<const float> weight_tk,
                       View2<float> y_th) override {
    const auto num_k = static_cast<size_t>(row_tk.cols);
    std::vector<EncodedRow> row_k(num_k);
    const std::vector<float> one_k(num_k, 1.0f);
    for (int64_t t = 0; t < y_th.rows; ++t) {
      for (size_t k = 0; k < num_k; ++k) row_k[k] = {row_tk(t, static_cast<int64_t>(k)), codec};
      combine_encoded_cpu(team(), {row_k.data(), 1, row_tk.cols},
                          {weight_tk.data == nullptr ? one_k.data() : weight_tk.row(t), 1, row_tk.cols},
                          y_th.sub_rows(t, 1));
    }
  }
  void edit_logits(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                   View2<const uint32_t> allowed_mw, View2<float> logits_rv) override {
    edit_logits_cpu(team(), row_i, edit_e, allowed_mw, logits_rv);
  }
  void sample(View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
              std::span<int32_t> token_i) override {
    const auto one = [&](int64_t i) {
      const SampleDraw& draw = draw_i[static_cast<size_t>(i)];
      token_i[static_cast<size_t>(i)] =
          sample_cpu({logits_rv.row(draw.row), static_cast<size_t>(logits_rv.cols)}, draw.rule, draw.u);
    };
    team().parallel_for(static_cast<int64_t>(draw_i.size()), std::ref(one));
  }
  void token_scores(View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                    std::span<TokenScores> scores_i) override {
    token_scores_cpu(team(), logits_rv, row_i, scores_i);
  }

 private:
  DeviceMemory& memory_;
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(TeamOptions team, DeviceMemory& memory) {
  return std::make_unique<CpuOps>(team, memory);
}

}  // namespace guildhall
