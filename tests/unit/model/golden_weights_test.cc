// Loads every golden checkpoint and compares what was loaded with what the files hold.
#include <gmock/gmock.h>

#include <numeric>

#include "checkpoint_files.h"
#include "kernels/fp8.h"
#include "model/checkpoint.h"
#include "model/weights.h"

namespace guildhall {
namespace {

const std::filesystem::path kData = std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/golden/data";

std::vector<std::string> golden_cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kData))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

float code_value(uint8_t code, float scale) {
  float value = 0;
  from_fp8_ref({&code, 1}, {&scale, 1}, {&value, 1});
  return value;
}

// A tensor straight from the file, widened.
std::vector<float> stored(Checkpoint& checkpoint, const std::string& name, std::vector<int64_t> shape) {
  const TensorRef ref = checkpoint.find(name, shape).value();
  std::vector<std::byte> bytes(static_cast<size_t>(ref.info->bytes()));
  ref.file->read(name, *ref.info, 0, bytes).value();
  const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<float> values(static_cast<size_t>(size));
  const bool is_fp8 = ref.info->dtype == "F8_E4M3";
  const std::vector<float> scales =
      is_fp8 ? stored(checkpoint, name + "_scale_inv", {fp8_blocks(shape[0]), fp8_blocks(shape[1])})
             : std::vector<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    if (ref.info->dtype == "F32") {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    } else if (is_fp8) {
      const auto row = static_cast<int64_t>(i) / shape[1], col = static_cast<int64_t>(i) % shape[1];
      const int64_t block = row / kFp8BlockSize * fp8_blocks(shape[1]) + col / kFp8BlockSize;
      values[i] = code_value(static_cast<uint8_t>(bytes[i]), scales[static_cast<size_t>(block)]);
    } else {
      bf16 x;
      std::memcpy(&x.bits, bytes.data() + 2 * i, 2);
      values[i] = to_float(x);
    }
  }
  return values;
}

float element(const WeightView& w, int64_t row, int64_t col) {
  if (w.dtype == DType::e4m3)
    return code_value(static_cast<const uint8_t*>(w.row(row))[col], w.scale_row(row)[col / kFp8BlockSize]);
  return w.dtype == DType::f32 ? static_cast<const float*>(w.row(row))[col]
                               : to_float(static_cast<const bf16*>(w.row(row))[col]);
}

// Rows [first, first + rows) of w are `values`.
void expect_rows(const WeightView& w, int64_t first, int64_t rows, const std::vector<float>& values) {
  ASSERT_EQ(static_cast<int64_t>(values.size()), rows * w.cols);
  ASSERT_LE(first + rows, w.rows);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < w.cols; ++c)
      ASSERT_EQ(element(w, first + r, c), values[static_cast<size_t>(r * w.cols + c)]) << r << "," << c;
  }
}

class GoldenWeights : public ::testing::TestWithParam<std::string> {
 protected:
  const std::filesystem::path dir_ = kData / GetParam();
  const ModelSpec spec_ = read_model_spec(dir_).value();
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::open(dir_).value();
  LoadProgress progress_;
};

TEST_P(GoldenWeights, DenseWeightsAreThoseOfTheFiles) {
  const auto weights = DenseWeights::load(dir_, spec_, LoadMode::checkpoint, progress_).value();
  EXPECT_EQ(progress_.bytes_done, progress_.bytes_total);
  expect_rows(weights->embed_vh, 0, spec_.vocab_size,
              stored(*checkpoint_, "model.embed_tokens.weight", {spec_.vocab_size, spec_.hidden}));
  EXPECT_EQ(weights->embed_vh.data == weights->lm_head_vh.data, spec_.tie_embeddings);
  const size_t last = weights->layers.size() - 1;
  const LayerWeights& layer = weights->layers[last];
  const std::string at = fmt::format("model.layers.{}.", last);
  EXPECT_THAT(layer.post_attention_norm,
              ::testing::ElementsAreArray(
                  stored(*checkpoint_, at + "post_attention_layernorm.weight", {spec_.hidden})));
  if (const auto* moe = std::get_if<MoeWeights>(&layer.mlp)) {
    expect_rows(moe->gate_eh, 0, spec_.moe.num_experts,
                stored(*checkpoint_, at + "mlp.gate.weight", {spec_.moe.num_experts, spec_.hidden}));
    EXPECT_EQ(moe->gate_bias_e.size(), spec_.moe.gate_bias ? static_cast<size_t>(spec_.moe.num_experts) : 0);
    EXPECT_EQ(moe->shared.has_value(), spec_.moe.shared_width > 0);
  } else {
    const MlpWeights& mlp = std::get<MlpWeights>(layer.mlp);
    expect_rows(mlp.gate_up, spec_.dense_width, spec_.dense_width,
                stored(*checkpoint_, at + "mlp.up_proj.weight", {spec_.dense_width, spec_.hidden}));
  }
}

// `part` is rows and columns [row, ...) [col, ...) of `whole`.
void expect_part(const WeightView& part, const WeightView& whole, int64_t row, int64_t col) {
  ASSERT_EQ(part.empty(), whole.empty());
  if (part.empty()) return;
  if (whole.dtype != DType::e4m3) {  // of which a part may cut a block
    ASSERT_EQ(part.dtype, whole.dtype);
  }
  ASSERT_TRUE(row + part.rows <= whole.rows && col + part.cols <= whole.cols);
  for (int64_t r = 0; r < part.rows; ++r)
    for (int64_t c = 0; c < part.cols; ++c)
      ASSERT_EQ(element(part, r, c), element(whole, row + r, col + c)) << r << "," << c;
}

void expect_mlp(const MlpWeights& part, const MlpWeights& whole, IndexRange columns) {
  const int64_t width = columns.size();
  ASSERT_EQ(part.gate_up.rows, 2 * width);
  expect_part(part.gate_up.sub_rows(0, width), whole.gate_up, columns.begin, 0);
  expect_part(part.gate_up.sub_rows(width, width), whole.gate_up, whole.gate_up.rows / 2 + columns.begin, 0);
  ASSERT_EQ(part.down.cols, width);
  expect_part(part.down, whole.down, 0, columns.begin);
}

TEST_P(GoldenWeights, ARankHoldsItsPartsAndReadsNoMore) {
  const auto whole = DenseWeights::load(dir_, spec_, LoadMode::checkpoint, progress_).value();
  for (const int num_ranks : {2, spec_.vocab_size < 270 ? 3 : 2}) {
    int64_t bytes_read = 0;
    for (int rank = 0; rank < num_ranks; ++rank) {
      const ModelShard shard = make_shard(spec_, rank, num_ranks).value();
      LoadProgress progress;
      const auto mine =
          DenseWeights::load(dir_, spec_, shard, LoadMode::checkpoint, progress, host_memory()).value();
      EXPECT_EQ(mine->bytes(), *DenseWeights::bytes_needed(dir_, spec_, shard, LoadMode::checkpoint));
      EXPECT_EQ(progress.bytes_done, progress.bytes_total);
      EXPECT_LT(progress.bytes_done, progress_.bytes_done);
      bytes_read += progress.bytes_done;
      expect_part(mine->embed_vh, whole->embed_vh, shard.vocab.begin, 0);
      expect_part(mine->lm_head_vh, whole->lm_head_vh, shard.vocab.begin, 0);
      ASSERT_EQ(mine->embed_vh.rows, shard.spec.vocab_size);
      for (size_t l = 0; l < whole->layers.size(); ++l) {
        const LayerWeights &a = mine->layers[l], &b = whole->layers[l];
        if (const auto* gqa = std::get_if<GqaWeights>(&a.attention)) {
          const auto& all = std::get<GqaWeights>(b.attention);
          const int64_t dim = std::get<GqaSpec>(spec_.attention).head_dim;
          expect_part(gqa->q, all.q, shard.heads.begin * dim, 0);
          expect_part(gqa->k, all.k, shard.kv_heads.begin * dim, 0);
          expect_part(gqa->v, all.v, shard.kv_heads.begin * dim, 0);
          expect_part(gqa->o, all.o, 0, shard.heads.begin * dim);
          ASSERT_EQ(gqa->o.cols, shard.heads.size() * dim);
          if (!all.v_bias.empty()) {
            EXPECT_EQ(gqa->v_bias.front(), all.v_bias[static_cast<size_t>(shard.kv_heads.begin * dim)]);
          }
          EXPECT_EQ(gqa->o_bias.empty(), all.o_bias.empty() || rank > 0);
        } else {
          const auto &mla = std::get<MlaWeights>(a.attention), &all = std::get<MlaWeights>(b.attention);
          const auto& s = std::get<MlaSpec>(spec_.attention);
          const int64_t first = shard.heads.begin, q_dim = s.qk_nope_head_dim + s.qk_rope_head_dim;
          expect_part(mla.q, all.q, first * q_dim, 0);
          expect_part(mla.q_a, all.q_a, 0, 0);
          expect_part(mla.q_b, all.q_b, first * q_dim, 0);
          expect_part(mla.kv_a, all.kv_a, 0, 0);
          expect_part(mla.k_up_hrn, all.k_up_hrn, first * s.kv_lora_rank, 0);
          expect_part(mla.v_up_hdr, all.v_up_hdr, first * s.v_head_dim, 0);
          expect_part(mla.o, all.o, 0, first * s.v_head_dim);
          EXPECT_EQ(mla.o_bias.empty(), all.o_bias.empty() || rank > 0);
        }
        if (const auto* mlp = std::get_if<MlpWeights>(&a.mlp)) {
          expect_mlp(*mlp, std::get<MlpWeights>(b.mlp), shard.dense_columns);
          continue;
        }
        const auto &moe = std::get<MoeWeights>(a.mlp), &all = std::get<MoeWeights>(b.mlp);
        EXPECT_EQ(moe.gate_eh.empty(), rank > 0);
        ASSERT_EQ(moe.shared.has_value(), all.shared.has_value());
        if (moe.shared) expect_mlp(*moe.shared, *all.shared, shard.shared_columns);
      }
    }
    EXPECT_GE(bytes_read, progress_.bytes_done);
  }
}

TEST_P(GoldenWeights, LatentAttentionIsAbsorbed) {
  const auto* mla_spec = std::get_if<MlaSpec>(&spec_.attention);
  const auto weights = DenseWeights::load(dir_, spec_, LoadMode::checkpoint, progress_).value();
  for (size_t layer = 0; layer < weights->layers.size(); ++layer) {
    if (mla_spec == nullptr) {
      EXPECT_TRUE(std::holds_alternative<GqaWeights>(weights->layers[layer].attention));
      continue;
    }
    const MlaWeights& mla = std::get<MlaWeights>(weights->layers[layer].attention);
    EXPECT_EQ(mla.q.empty(), mla_spec->q_lora_rank > 0);
    EXPECT_EQ(mla.o_bias.empty(), !mla_spec->attention_bias);
    const int64_t heads = mla_spec->num_heads, rank = mla_spec->kv_lora_rank;
    const int64_t nope = mla_spec->qk_nope_head_dim, value = mla_spec->v_head_dim;
    const std::vector<float> kv_b =
        stored(*checkpoint_, fmt::format("model.layers.{}.self_attn.kv_b_proj.weight", layer),
               {heads * (nope + value), rank});
    ASSERT_EQ(mla.k_up_hrn.rows, heads * rank);
    ASSERT_EQ(mla.v_up_hdr.rows, heads * value);
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t n = 0; n < nope; ++n)
          ASSERT_EQ(element(mla.k_up_hrn, head * rank + r, n),
                    kv_b[static_cast<size_t>((head * (nope + value) + n) * rank + r)]);
        for (int64_t v = 0; v < value; ++v)
          ASSERT_EQ(element(mla.v_up_hdr, head * value + v, r),
                    kv_b[static_cast<size_t>((head * (nope + value) + nope + v) * rank + r)]);
      }
    }
  }
}

TEST_P(GoldenWeights, ExpertsAreThoseOfTheFiles) {
  std::vector<std::vector<int32_t>> every_other(static_cast<size_t>(spec_.num_layers));
  for (size_t layer = 0; layer < every_other.size(); ++layer) {
    for (int32_t expert = 0; spec_.is_moe_layer[layer] && expert < spec_.moe.num_experts; expert += 2)
      every_other[layer].push_back(expert);
  }
  const auto store = ExpertStore::load(dir_, spec_, LoadMode::checkpoint, every_other, progress_).value();
  EXPECT_EQ(store->bytes(), store->num_experts() * expert_bytes(spec_));
  const int64_t width = spec_.moe.expert_width, hidden = spec_.hidden;
  for (size_t layer = 0; layer < every_other.size(); ++layer) {
    EXPECT_EQ(store->find(static_cast<int64_t>(layer), 1), nullptr);
    if (every_other[layer].empty()) continue;
    const int32_t expert = every_other[layer].back();
    const ExpertWeightView* view = store->find(static_cast<int64_t>(layer), expert);
    ASSERT_NE(view, nullptr);
    const std::string at = fmt::format("model.layers.{}.mlp.experts.{}.", layer, expert);
    expect_rows(view->gate_fh, 0, width, stored(*checkpoint_, at + "gate_proj.weight", {width, hidden}));
    expect_rows(view->up_fh, 0, width, stored(*checkpoint_, at + "up_proj.weight", {width, hidden}));
    expect_rows(view->down_hf, 0, hidden, stored(*checkpoint_, at + "down_proj.weight", {hidden, width}));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenWeights, ::testing::ValuesIn(golden_cases()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace guildhall
