#include "model/weights.h"

#include <gmock/gmock.h>

#include <cmath>

#include "checkpoint_files.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One layer, hidden 4, one head of 2, two experts of width 3, vocabulary of 5.
ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.model_type = "qwen3_moe";
  spec.hidden = 4;
  spec.num_layers = 1;
  spec.vocab_size = 5;
  spec.attention = GqaSpec{.num_heads = 1, .num_kv_heads = 1, .head_dim = 2, .qk_norm = true, .scale = 1};
  spec.moe = {.num_experts = 2, .top_k = 1, .expert_width = 3};
  spec.is_moe_layer = {true};
  return spec;
}

TestTensor counting(std::vector<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(i) + 0.5f);
  return f32_tensor(std::move(shape), values);
}

TestTensor counting_bf16(std::vector<int64_t> shape) {
  const TestTensor wide = counting(shape);
  std::vector<uint16_t> bits(wide.bytes.size() / 4);
  for (size_t i = 0; i < bits.size(); ++i) std::memcpy(&bits[i], wide.bytes.data() + 4 * i + 2, 2);
  return u16_tensor("BF16", std::move(shape), bits);
}

const std::string kExpert0 = "model.layers.0.mlp.experts.0.";
const std::string kExpert1 = "model.layers.0.mlp.experts.1.";

TestTensors tiny_tensors() {
  TestTensors tensors{
      {"model.embed_tokens.weight", counting({5, 4})},
      {"lm_head.weight", counting_bf16({5, 4})},
      {"model.norm.weight", counting({4})},
      {"model.layers.0.input_layernorm.weight", counting_bf16({4})},
      {"model.layers.0.post_attention_layernorm.weight", counting({4})},
      {"model.layers.0.self_attn.q_proj.weight", counting_bf16({2, 4})},
      {"model.layers.0.self_attn.k_proj.weight", counting({2, 4})},
      {"model.layers.0.self_attn.v_proj.weight", counting({2, 4})},
      {"model.layers.0.self_attn.o_proj.weight", counting({4, 2})},
      {"model.layers.0.self_attn.q_norm.weight", counting({2})},
      {"model.layers.0.self_attn.k_norm.weight", counting({2})},
      {"model.layers.0.mlp.gate.weight", counting_bf16({2, 4})},
  };
  for (const std::string& expert : {kExpert0, kExpert1}) {
    tensors[expert + "gate_proj.weight"] = counting_bf16({3, 4});
    tensors[expert + "up_proj.weight"] = counting_bf16({3, 4});
    tensors[expert + "down_proj.weight"] = counting_bf16({4, 3});
  }
  return tensors;
}

float at(const WeightView& w, int64_t row, int64_t col) {
  return w.dtype == DType::f32 ? static_cast<const float*>(w.row(row))[col]
                               : to_float(static_cast<const bf16*>(w.row(row))[col]);
}

class WeightsTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<DenseWeights>> load_dense() {
    write_file(dir_.path() / "model.safetensors", safetensors_bytes(tensors_));
    return DenseWeights::load(dir_.path(), spec_, LoadMode::checkpoint, progress_);
  }
  Result<std::unique_ptr<ExpertStore>> load_experts(const std::vector<std::vector<int32_t>>& experts) {
    write_file(dir_.path() / "model.safetensors", safetensors_bytes(tensors_));
    return ExpertStore::load(dir_.path(), spec_, LoadMode::checkpoint, experts, progress_);
  }
  TempDir dir_;
  ModelSpec spec_ = tiny_spec();
  TestTensors tensors_ = tiny_tensors();
  LoadProgress progress_;
};

TEST_F(WeightsTest, KeepsEachMatrixInItsDtypeAndWidensTheRest) {
  const auto weights = load_dense().value();
  EXPECT_EQ(weights->embed_vh.dtype, DType::f32);
  EXPECT_EQ(weights->lm_head_vh.dtype, DType::bf16);
  EXPECT_EQ(at(weights->lm_head_vh, 4, 3), 19.5f);
  const LayerWeights& layer = weights->layers[0];
  EXPECT_THAT(layer.input_norm, ElementsAre(0.5f, 1.5f, 2.5f, 3.5f));
  const GqaWeights& gqa = std::get<GqaWeights>(layer.attention);
  EXPECT_EQ(gqa.q.dtype, DType::bf16);
  EXPECT_EQ(gqa.k.dtype, DType::f32);
  EXPECT_EQ(gqa.o.rows, 4);
  EXPECT_TRUE(gqa.q_bias.empty());
  const MoeWeights& moe = std::get<MoeWeights>(layer.mlp);
  EXPECT_EQ(moe.gate_eh.dtype, DType::f32);
  EXPECT_EQ(at(moe.gate_eh, 1, 3), 7.5f);
  EXPECT_TRUE(moe.gate_bias_e.empty());
  EXPECT_FALSE(moe.shared.has_value());
}

TEST_F(WeightsTest, AlignsEveryMatrixToACacheLine) {
  const auto weights = load_dense().value();
  const GqaWeights& gqa = std::get<GqaWeights>(weights->layers[0].attention);
  for (const void* data :
       {weights->embed_vh.data, weights->lm_head_vh.data, gqa.q.data, gqa.k.data, gqa.o.data})
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
}

TEST_F(WeightsTest, ReportsTheBytesItRead) {
  const auto weights = load_dense().value();
  int64_t dense_bytes = 0;
  for (const auto& [name, tensor] : tensors_) {
    if (name.find("experts") == std::string::npos) dense_bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  EXPECT_EQ(progress_.bytes_total, dense_bytes);
  EXPECT_EQ(progress_.bytes_done, dense_bytes);
  EXPECT_GE(weights->bytes(), dense_bytes);
}

TEST_F(WeightsTest, EndsWhenCancelled) {
  progress_.cancel = true;
  EXPECT_EQ(load_dense().error().code, Code::cancelled);
  EXPECT_EQ(progress_.bytes_done, 0);
}

TEST_F(WeightsTest, TiedEmbeddingsServeAsTheOutputLayer) {
  spec_.tie_embeddings = true;
  tensors_.erase("lm_head.weight");
  const auto weights = load_dense().value();
  EXPECT_EQ(weights->lm_head_vh.data, weights->embed_vh.data);
  EXPECT_EQ(weights->lm_head_vh.rows, 5);
}

TEST_F(WeightsTest, NamesTheMissingOutputLayer) {
  tensors_.erase("lm_head.weight");
  EXPECT_THAT(load_dense().error().message,
              HasSubstr("tensor lm_head.weight is not in the file; config.json's "
                        "tie_word_embeddings is not true"));
}

TEST_F(WeightsTest, NamesAMissingTensorAWrongShapeAndAWrongDtype) {
  const TestTensor good = tensors_["model.layers.0.self_attn.k_proj.weight"];
  TestTensor& tensor = tensors_["model.layers.0.self_attn.k_proj.weight"];
  tensor = counting({4, 2});
  EXPECT_THAT(
      load_dense().error().message,
      HasSubstr(
          "tensor model.layers.0.self_attn.k_proj.weight has shape [4,2], but config.json asks for [2,4]"));
  tensor = u16_tensor("I16", {2, 4}, std::vector<uint16_t>(8));
  EXPECT_THAT(load_dense().error().message,
              HasSubstr("has dtype I16, but weights must be BF16, F16, F32 or F8_E4M3"));
  tensors_.erase("model.layers.0.self_attn.k_proj.weight");
  EXPECT_THAT(load_dense().error().message,
              HasSubstr("tensor model.layers.0.self_attn.k_proj.weight is not in"));
}

TEST_F(WeightsTest, HalfPrecisionBecomesFloat) {
  // 1, -2, the largest, the smallest subnormal, -0, +inf, NaN, 1/3
  tensors_["model.layers.0.self_attn.q_proj.weight"] =
      u16_tensor("F16", {2, 4}, {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00, 0x7e00, 0x3555});
  const auto weights = load_dense().value();
  const WeightView& q = std::get<GqaWeights>(weights->layers[0].attention).q;
  ASSERT_EQ(q.dtype, DType::f32);
  EXPECT_EQ(at(q, 0, 0), 1.0f);
  EXPECT_EQ(at(q, 0, 1), -2.0f);
  EXPECT_EQ(at(q, 0, 2), 65504.0f);
  EXPECT_EQ(at(q, 0, 3), std::ldexp(1.0f, -24));
  EXPECT_TRUE(std::signbit(at(q, 1, 0)));
  EXPECT_TRUE(std::isinf(at(q, 1, 1)));
  EXPECT_TRUE(std::isnan(at(q, 1, 2)));
  EXPECT_NEAR(at(q, 1, 3), 1.0f / 3, 1e-4);
}

TEST_F(WeightsTest, AFusedMatrixOfMixedDtypesIsFloat) {
  spec_.is_moe_layer = {false};
  spec_.dense_width = 3;
  const std::string at_mlp = "model.layers.0.mlp.";
  tensors_[at_mlp + "gate_proj.weight"] = counting_bf16({3, 4});
  tensors_[at_mlp + "up_proj.weight"] = counting({3, 4});
  tensors_[at_mlp + "down_proj.weight"] = counting_bf16({4, 3});
  const auto weights = load_dense().value();
  const MlpWeights& mlp = std::get<MlpWeights>(weights->layers[0].mlp);
  EXPECT_EQ(mlp.gate_up.dtype, DType::f32);
  EXPECT_EQ(mlp.down.dtype, DType::bf16);
  ASSERT_EQ(mlp.gate_up.rows, 6);
  EXPECT_EQ(at(mlp.gate_up, 2, 3), 11.5f);
  EXPECT_EQ(at(mlp.gate_up, 3, 0), 0.5f);
}

TEST_F(WeightsTest, LoadsOnlyTheExpertsAskedFor) {
  for (const char* name : {"gate_proj.weight", "up_proj.weight", "down_proj.weight"})
    tensors_.erase(kExpert0 + name);
  const auto store = load_experts({{1}}).value();
  EXPECT_EQ(store->num_experts(), 1);
  EXPECT_EQ(store->bytes(), expert_bytes(spec_));
  EXPECT_EQ(store->find(0, 0), nullptr);
  EXPECT_EQ(store->find(1, 1), nullptr);
  EXPECT_EQ(store->find(0, -1), nullptr);
  EXPECT_EQ(store->find(0, 2), nullptr);
  const ExpertWeightView* expert = store->find(0, 1);
  ASSERT_NE(expert, nullptr);
  EXPECT_EQ(expert->gate_fh.dtype, DType::bf16);
  EXPECT_EQ(expert->down_hf.rows, 4);
  EXPECT_EQ(at(expert->down_hf, 3, 2), 11.5f);
  EXPECT_THAT(load_experts({{0}}).error().message,
              HasSubstr("experts.0.gate_proj.weight is not in the file"));
}

TEST_F(WeightsTest, AnExpertOfMixedDtypesIsFloat) {
  tensors_[kExpert1 + "up_proj.weight"] = counting({3, 4});
  const auto store = load_experts({{0, 1}}).value();
  EXPECT_EQ(store->find(0, 0)->gate_fh.dtype, DType::bf16);
  for (const WeightView& w :
       {store->find(0, 1)->gate_fh, store->find(0, 1)->up_fh, store->find(0, 1)->down_hf})
    EXPECT_EQ(w.dtype, DType::f32);
  EXPECT_EQ(at(store->find(0, 1)->gate_fh, 2, 3), 11.5f);
}

TEST_F(WeightsTest, HoldsNoExpertsWhenNoneAreAskedFor) {
  const auto store = load_experts({{}}).value();
  EXPECT_EQ(store->num_experts(), 0);
  EXPECT_EQ(store->bytes(), 0);
  EXPECT_EQ(store->find(0, 0), nullptr);
}

TEST_F(WeightsTest, RefusesAListOfExpertsThatMakesNoSense) {
  EXPECT_THAT(load_experts({{0}, {1}}).error().message, HasSubstr("2 layers of a model with 1"));
  EXPECT_THAT(load_experts({{2}}).error().message, HasSubstr("layer 0 has no expert 2"));
  EXPECT_THAT(load_experts({{-1}}).error().message, HasSubstr("layer 0 has no expert -1"));
  EXPECT_THAT(load_experts({{1, 0}}).error().message, HasSubstr("once each, in order"));
  EXPECT_THAT(load_experts({{1, 1}}).error().message, HasSubstr("once each, in order"));
  spec_.is_moe_layer = {false};
  EXPECT_THAT(load_experts({{0}}).error().message, HasSubstr("layer 0 has no experts"));
}

TEST(DummyWeights, NeedNoFilesAndAreTheSameEveryTime) {
  ModelSpec spec = tiny_spec();
  spec.hidden = 64;
  spec.vocab_size = 999;
  spec.weight_dtype = DType::bf16;
  LoadProgress progress;
  const auto one = DenseWeights::load("/nonexistent", spec, LoadMode::dummy, progress).value();
  const auto two = DenseWeights::load("/nonexistent", spec, LoadMode::dummy, progress).value();
  EXPECT_EQ(one->embed_vh.dtype, DType::bf16);
  double sum = 0, squares = 0;
  bool same_as_head = true;
  for (int64_t row = 0; row < 999; ++row) {
    for (int64_t col = 0; col < 64; ++col) {
      const float x = at(one->embed_vh, row, col);
      sum += x;
      squares += x * x;
      ASSERT_EQ(x, at(two->embed_vh, row, col));
      same_as_head = same_as_head && x == at(one->lm_head_vh, row, col);
    }
  }
  const double count = 999 * 64;
  EXPECT_NEAR(sum / count, 0, 1e-3);
  EXPECT_NEAR(std::sqrt(squares / count), 0.019, 1e-3);
  EXPECT_FALSE(same_as_head);
  EXPECT_THAT(one->final_norm, ::testing::Each(1.0f));

  const auto experts = ExpertStore::load("/nonexistent", spec, LoadMode::dummy, {{0, 1}}, progress).value();
  EXPECT_EQ(experts->bytes(), 2 * expert_bytes(spec));
  EXPECT_NE(at(experts->find(0, 0)->gate_fh, 0, 0), at(experts->find(0, 1)->gate_fh, 0, 0));
}

TEST(DummyWeights, AModelLargerThanTheMachineIsRefused) {
  ModelSpec spec = tiny_spec();
  spec.hidden = 1 << 17;
  spec.vocab_size = 1 << 22;
  LoadProgress progress;
  const auto weights = DenseWeights::load("/nonexistent", spec, LoadMode::dummy, progress);
  ASSERT_TRUE(weights.has_error());
  EXPECT_EQ(weights.error().code, Code::resource_exhausted);
  EXPECT_THAT(weights.error().message, HasSubstr("weights need 2.0 TiB of memory"));
}

}  // namespace
}  // namespace guildhall
