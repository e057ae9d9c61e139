// fp8_weights_test.cc: checkpoints of e4m3 codes with a scale per 128x128: what stays as codes, what is
// dequantised, and what is refused by name.
#include <gmock/gmock.h>

#include <cmath>

#include "checkpoint_files.h"
#include "kernels/fp8.h"
#include "model/weights.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kHidden = 200, kWidth = 130;
const std::string kAttention = "model.layers.0.self_attn.", kExpert = "model.layers.0.mlp.experts.0.";

ModelSpec fp8_spec() {
  ModelSpec spec;
  spec.model_type = "qwen3_moe";
  spec.hidden = kHidden;
  spec.num_layers = 1;
  spec.vocab_size = 5;
  spec.attention = GqaSpec{.num_heads = 1, .num_kv_heads = 1, .head_dim = 2, .qk_norm = true, .scale = 1};
  spec.moe = {.num_experts = 1, .top_k = 1, .expert_width = kWidth};
  spec.is_moe_layer = {true};
  spec.fp8_weights = true;
  return spec;
}

uint8_t code_at(int64_t i) { return static_cast<uint8_t>(i * 37 % 127 + (i % 3 == 0 ? 128 : 0)); }
float scale_at(int64_t i) { return 0.01f * static_cast<float>(i + 1); }
float code_value(int64_t i, float scale) {
  const uint8_t code = code_at(i);
  float value = 0;
  from_fp8_ref({&code, 1}, {&scale, 1}, {&value, 1});
  return value;
}

void add_codes(TestTensors& tensors, const std::string& name, int64_t rows, int64_t cols) {
  std::string codes;
  for (int64_t i = 0; i < rows * cols; ++i) codes += static_cast<char>(code_at(i));
  std::vector<float> scales;
  for (int64_t i = 0; i < fp8_blocks(rows) * fp8_blocks(cols); ++i) scales.push_back(scale_at(i));
  tensors[name] = {"F8_E4M3", {rows, cols}, codes};
  tensors[name + "_scale_inv"] = f32_tensor({fp8_blocks(rows), fp8_blocks(cols)}, scales);
}

TestTensor ones(std::vector<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return f32_tensor(std::move(shape), std::vector<float>(static_cast<size_t>(count), 1.0f));
}

TestTensors fp8_tensors() {
  TestTensors tensors{{"model.embed_tokens.weight", ones({5, kHidden})},
                      {"lm_head.weight", ones({5, kHidden})},
                      {"model.norm.weight", ones({kHidden})},
                      {"model.layers.0.input_layernorm.weight", ones({kHidden})},
                      {"model.layers.0.post_attention_layernorm.weight", ones({kHidden})},
                      {kAttention + "q_norm.weight", ones({2})},
                      {kAttention + "k_norm.weight", ones({2})},
                      {kAttention + "v_proj.weight", ones({2, kHidden})},
                      {"model.layers.0.mlp.gate.weight", ones({1, kHidden})}};
  add_codes(tensors, kAttention + "q_proj.weight", 2, kHidden);
  add_codes(tensors, kAttention + "k_proj.weight", 2, kHidden);
  add_codes(tensors, kAttention + "o_proj.weight", kHidden, 2);
  add_codes(tensors, kExpert + "gate_proj.weight", kWidth, kHidden);
  add_codes(tensors, kExpert + "up_proj.weight", kWidth, kHidden);
  add_codes(tensors, kExpert + "down_proj.weight", kHidden, kWidth);
  return tensors;
}

class Fp8Weights : public ::testing::Test {
 protected:
  Result<std::unique_ptr<DenseWeights>> load_dense() {
    write_file(dir_.path() / "model.safetensors", safetensors_bytes(tensors_));
    return DenseWeights::load(dir_.path(), spec_, LoadMode::checkpoint, progress_);
  }
  Result<std::unique_ptr<ExpertStore>> load_expert() {
    write_file(dir_.path() / "model.safetensors", safetensors_bytes(tensors_));
    return ExpertStore::load(dir_.path(), spec_, LoadMode::checkpoint, {{0}}, progress_);
  }
  TempDir dir_;
  ModelSpec spec_ = fp8_spec();
  TestTensors tensors_ = fp8_tensors();
  LoadProgress progress_;
};

void expect_codes(const WeightView& w, int64_t rows, int64_t cols) {
  ASSERT_EQ(w.dtype, DType::e4m3);
  ASSERT_EQ(w.rows, rows);
  ASSERT_EQ(w.cols, cols);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t k = 0; k < cols; ++k)
      ASSERT_EQ(static_cast<const uint8_t*>(w.row(n))[k], code_at(n * cols + k)) << n << " " << k;
  for (int64_t n = 0; n < fp8_blocks(rows); ++n)
    for (int64_t k = 0; k < fp8_scale_stride(cols); ++k)
      EXPECT_EQ(w.scale_row(n * kFp8BlockSize)[k],
                k < fp8_blocks(cols) ? scale_at(n * fp8_blocks(cols) + k) : 0.0f);
}

void expect_value(const WeightView& w, int64_t row, int64_t col, uint8_t code, float scale) {
  ASSERT_EQ(w.dtype, DType::e4m3);
  EXPECT_EQ(static_cast<const uint8_t*>(w.row(row))[col], code) << row << " " << col;
  EXPECT_EQ(w.scale_row(row)[col / kFp8BlockSize], scale) << row << " " << col;
}

TEST_F(Fp8Weights, AnExpertStaysCodesAndScales) {
  const auto store = load_expert().value();
  const ExpertWeightView* expert = store->find(0, 0);
  expect_codes(expert->gate_fh, kWidth, kHidden);
  expect_codes(expert->up_fh, kWidth, kHidden);
  expect_codes(expert->down_hf, kHidden, kWidth);
  EXPECT_EQ(store->bytes(), expert_bytes(spec_));
}

TEST_F(Fp8Weights, EachDenseMatrixIsAsItsTensorIs) {
  const auto weights = load_dense().value();
  const GqaWeights& gqa = std::get<GqaWeights>(weights->layers[0].attention);
  expect_codes(gqa.q, 2, kHidden);
  expect_codes(gqa.o, kHidden, 2);
  EXPECT_EQ(gqa.v.dtype, DType::f32);
  EXPECT_EQ(weights->embed_vh.dtype, DType::f32);
}

TEST_F(Fp8Weights, ScalesMayBeBf16) {
  tensors_[kExpert + "gate_proj.weight_scale_inv"] =
      u16_tensor("BF16", {2, 2}, {0x3f80, 0x4000, 0x3f00, 0xbf80});
  const auto store = load_expert().value();
  const WeightView& gate = store->find(0, 0)->gate_fh;
  EXPECT_EQ(gate.scale_row(0)[1], 2.0f);
  EXPECT_EQ(gate.scale_row(128)[0], 0.5f);
  EXPECT_EQ(gate.scale_row(129)[1], -1.0f);
}

// Where codes cannot stay they become exactly what they are worth.
TEST_F(Fp8Weights, WhatCannotStayCodesIsDequantised) {
  add_codes(tensors_, "lm_head.weight", 5, kHidden);
  tensors_[kExpert + "up_proj.weight"] = ones({kWidth, kHidden});
  const auto dense = load_dense().value();
  ASSERT_EQ(dense->lm_head_vh.dtype, DType::f32);
  for (int64_t k : {0, 127, 128, 199})
    EXPECT_EQ(static_cast<const float*>(dense->lm_head_vh.row(3))[k],
              code_value(3 * kHidden + k, scale_at(k / kFp8BlockSize)));
  const auto store = load_expert().value();
  const WeightView& gate = store->find(0, 0)->gate_fh;
  ASSERT_EQ(gate.dtype, DType::f32);
  EXPECT_EQ(static_cast<const float*>(gate.row(129))[130], code_value(129 * kHidden + 130, scale_at(3)));
}

// Stacked parts keep their codes only where they meet between blocks.
TEST_F(Fp8Weights, StackedPartsMeetBetweenBlocksOrAreDequantised) {
  spec_.is_moe_layer = {false};
  for (const int64_t width : {int64_t{128}, kWidth}) {
    spec_.dense_width = width;
    add_codes(tensors_, "model.layers.0.mlp.gate_proj.weight", width, kHidden);
    add_codes(tensors_, "model.layers.0.mlp.up_proj.weight", width, kHidden);
    add_codes(tensors_, "model.layers.0.mlp.down_proj.weight", kHidden, width);
    const auto weights = load_dense().value();
    const MlpWeights& mlp = std::get<MlpWeights>(weights->layers[0].mlp);
    expect_codes(mlp.down, kHidden, width);
    ASSERT_EQ(mlp.gate_up.rows, 2 * width);
    if (width % kFp8BlockSize == 0) {
      expect_codes(mlp.gate_up.sub_rows(width, width), width, kHidden);
    } else {
      ASSERT_EQ(mlp.gate_up.dtype, DType::f32);
      EXPECT_EQ(static_cast<const float*>(mlp.gate_up.row(width + 129))[150],
                code_value(129 * kHidden + 150, scale_at(3)));
    }
  }
}

// Ranks divide an MLP's columns between blocks where there are enough, and its parts stay codes; heads end
// where they end, and what begins inside a block is dequantised.
TEST_F(Fp8Weights, PartsOfARankStayCodesWhereTheyBeginABlock) {
  constexpr int64_t kDense = 384, kHeadDim = 100;
  spec_.is_moe_layer = {false};
  spec_.dense_width = kDense;
  spec_.attention =
      GqaSpec{.num_heads = 2, .num_kv_heads = 2, .head_dim = kHeadDim, .qk_norm = true, .scale = 1};
  for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"})
    add_codes(tensors_, kAttention + name, 2 * kHeadDim, kHidden);
  add_codes(tensors_, kAttention + "o_proj.weight", kHidden, 2 * kHeadDim);
  for (const char* name : {"q_norm.weight", "k_norm.weight"}) tensors_[kAttention + name] = ones({kHeadDim});
  for (const char* name : {"gate_proj.weight", "up_proj.weight"})
    add_codes(tensors_, std::string("model.layers.0.mlp.") + name, kDense, kHidden);
  add_codes(tensors_, "model.layers.0.mlp.down_proj.weight", kHidden, kDense);
  write_file(dir_.path() / "model.safetensors", safetensors_bytes(tensors_));

  for (int rank = 0; rank < 2; ++rank) {
    const ModelShard shard = make_shard(spec_, rank, 2).value();
    const IndexRange columns = shard.dense_columns;
    EXPECT_EQ(columns, rank == 0 ? (IndexRange{0, 128}) : (IndexRange{128, 384}));
    const auto weights =
        DenseWeights::load(dir_.path(), spec_, shard, LoadMode::checkpoint, progress_, host_memory()).value();
    const MlpWeights& mlp = std::get<MlpWeights>(weights->layers[0].mlp);
    for (const int64_t n : {int64_t{0}, columns.size() - 1})
      for (const int64_t k : {int64_t{0}, kHidden - 1}) {
        const int64_t row = columns.begin + n, scale = row / 128 * fp8_blocks(kHidden) + k / 128;
        for (const int64_t up : {int64_t{0}, columns.size()})
          expect_value(mlp.gate_up, up + n, k, code_at(row * kHidden + k), scale_at(scale));
        expect_value(mlp.down, k, n, code_at(k * kDense + row), scale_at(k / 128 * 3 + row / 128));
      }
    const GqaWeights& gqa = std::get<GqaWeights>(weights->layers[0].attention);
    EXPECT_EQ(gqa.q.dtype, rank == 0 ? DType::e4m3 : DType::f32);
    EXPECT_EQ(gqa.o.dtype, rank == 0 ? DType::e4m3 : DType::f32);
    if (rank == 1) {  // rows, and columns, 100 to 199 of 200
      EXPECT_EQ(static_cast<const float*>(gqa.q.row(99))[199], code_value(199 * kHidden + 199, scale_at(3)));
      for (const int64_t col : {27, 28})
        EXPECT_EQ(static_cast<const float*>(gqa.o.row(130))[col],
                  code_value(130 * 2 * kHeadDim + 100 + col, scale_at(col == 27 ? 2 : 3)));
    }
  }
}

TEST_F(Fp8Weights, KvUpIsDequantisedIntoItsHeads) {
  constexpr int64_t kHeads = 2, kNope = 80, kValue = 70, kRank = 140;
  spec_.attention = MlaSpec{.num_heads = kHeads,
                            .kv_lora_rank = kRank,
                            .qk_nope_head_dim = kNope,
                            .qk_rope_head_dim = 2,
                            .v_head_dim = kValue};
  add_codes(tensors_, kAttention + "q_proj.weight", kHeads * (kNope + 2), kHidden);
  add_codes(tensors_, kAttention + "kv_a_proj_with_mqa.weight", kRank + 2, kHidden);
  add_codes(tensors_, kAttention + "kv_b_proj.weight", kHeads * (kNope + kValue), kRank);
  add_codes(tensors_, kAttention + "o_proj.weight", kHidden, kHeads * kValue);
  tensors_[kAttention + "kv_a_layernorm.weight"] = ones({kRank});
  const auto weights = load_dense().value();
  const MlaWeights& mla = std::get<MlaWeights>(weights->layers[0].attention);
  const auto value = [](int64_t row, int64_t col) {
    return code_value(row * kRank + col,
                      scale_at(row / kFp8BlockSize * fp8_blocks(kRank) + col / kFp8BlockSize));
  };
  ASSERT_EQ(mla.k_up_hrn.dtype, DType::f32);
  EXPECT_EQ(static_cast<const float*>(mla.k_up_hrn.row(kRank + 135))[70], value(kNope + kValue + 70, 135));
  EXPECT_EQ(static_cast<const float*>(mla.v_up_hdr.row(kValue + 3))[129], value(2 * kNope + kValue + 3, 129));
  expect_codes(mla.kv_a, kRank + 2, kHidden);
}

TEST_F(Fp8Weights, NamesAMissingOrMisshapenScale) {
  const std::string scale = kExpert + "down_proj.weight_scale_inv";
  tensors_[scale] = ones({2, 1});
  EXPECT_THAT(
      load_expert().error().message,
      AllOf(HasSubstr("tensor " + scale + " has shape [2,1], but config.json asks for [2,2]"),
            HasSubstr(kExpert + "down_proj.weight is F8_E4M3 and needs a scale for each of its 2x2")));
  tensors_[scale] = {"F8_E4M3", {2, 2}, std::string(4, '\0')};
  EXPECT_THAT(load_expert().error().message,
              HasSubstr(scale + " has dtype F8_E4M3, but scales must be F32, BF16 or F16"));
  tensors_.erase(scale);
  EXPECT_THAT(load_expert().error().message, HasSubstr("tensor " + scale + " is not in"));
}

TEST_F(Fp8Weights, RefusesCodesThatAreNoWeights) {
  tensors_["model.norm.weight"] = {"F8_E4M3", {kHidden}, std::string(kHidden, '\0')};
  EXPECT_THAT(load_dense().error().message,
              HasSubstr("tensor model.norm.weight has dtype F8_E4M3, but vectors must be"));
  for (const size_t at : {size_t{0}, static_cast<size_t>(kWidth * kHidden - 1)}) {
    add_codes(tensors_, kExpert + "up_proj.weight", kWidth, kHidden);
    tensors_[kExpert + "up_proj.weight"].bytes[at] = static_cast<char>(0xff);
    EXPECT_THAT(load_expert().error().message, HasSubstr("tensor " + kExpert + "up_proj.weight holds a NaN"));
  }
}

TEST_F(Fp8Weights, RefusesCodesThatConfigJsonDoesNotAnnounce) {
  spec_.fp8_weights = false;
  EXPECT_THAT(load_expert().error().message,
              HasSubstr("experts.0.gate_proj.weight has dtype F8_E4M3, but config.json has no "
                        "quantization_config with quant_method fp8"));
}

TEST(Fp8Dummy, LinearLayersAreCodesOfTheUsualMagnitude) {
  LoadProgress progress;
  const auto dense = DenseWeights::load("/nonexistent", fp8_spec(), LoadMode::dummy, progress).value();
  EXPECT_EQ(dense->embed_vh.dtype, DType::bf16);
  EXPECT_EQ(dense->lm_head_vh.dtype, DType::bf16);
  const auto store = ExpertStore::load("/nonexistent", fp8_spec(), LoadMode::dummy, {{0}}, progress).value();
  EXPECT_EQ(store->bytes(), expert_bytes(fp8_spec()));
  const WeightView& gate = store->find(0, 0)->gate_fh;
  ASSERT_EQ(gate.dtype, DType::e4m3);
  double squares = 0;
  for (int64_t n = 0; n < kWidth; ++n)
    for (int64_t k = 0; k < kHidden; ++k) {
      float value = 0;
      from_fp8_ref({static_cast<const uint8_t*>(gate.row(n)) + k, 1},
                   {gate.scale_row(n) + k / kFp8BlockSize, 1}, {&value, 1});
      squares += static_cast<double>(value) * value;
    }
  EXPECT_NEAR(std::sqrt(squares / (kWidth * kHidden)), 0.019, 1e-3);
}

}  // namespace
}  // namespace guildhall
