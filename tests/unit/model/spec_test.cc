#include "model/spec.h"

#include <gmock/gmock.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>

#include "checkpoint_files.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace json = boost::json;

constexpr std::string_view kDeepSeekV3 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "bos_token_id": 0, "eos_token_id": 1,
  "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
  "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
  "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
  "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
  "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})";

constexpr std::string_view kQwen3 = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
  "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
  "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
  "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})";

// `base` with the members of `changes` put in; a member that is the string "<absent>" is taken out.
std::string changed(std::string_view base, std::string_view changes) {
  json::object object = json::parse(base).as_object();
  const json::value parsed_changes = json::parse(changes);
  for (const auto& item : parsed_changes.as_object()) {
    if (item.value() == json::value("<absent>")) {
      object.erase(item.key());
    } else {
      object[item.key()] = item.value();
    }
  }
  return json::serialize(object);
}

Result<ModelSpec> parse(const std::string& config, std::string_view generation = "") {
  return parse_model_spec(config, generation, "m");
}

TEST(Spec, ReadsDeepSeekV3AsPublished) {
  const ModelSpec spec = parse(std::string(kDeepSeekV3)).value();
  EXPECT_EQ(spec.model_type, "deepseek_v3");
  EXPECT_EQ(spec.hidden, 7168);
  EXPECT_EQ(spec.num_layers, 61);
  EXPECT_EQ(spec.vocab_size, 129280);
  EXPECT_EQ(spec.max_position, 163840);
  EXPECT_EQ(spec.dense_width, 18432);
  EXPECT_EQ(spec.weight_dtype, DType::bf16);
  EXPECT_FALSE(spec.tie_embeddings);
  EXPECT_FALSE(spec.is_moe_layer[2]);
  EXPECT_TRUE(spec.is_moe_layer[3]);
  EXPECT_EQ(spec.bos_token_id, 0);
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(1));

  const MlaSpec& mla = std::get<MlaSpec>(spec.attention);
  EXPECT_EQ(mla.num_heads, 128);
  EXPECT_EQ(mla.q_lora_rank, 1536);
  EXPECT_EQ(mla.kv_lora_rank, 512);
  EXPECT_NEAR(mla.scale, 0.1352338, 1e-6);  // 192^-0.5 * 1.873854
  EXPECT_EQ(kv_elements_per_token_layer(spec), 576);

  EXPECT_EQ(spec.rope.dim, 64);
  EXPECT_EQ(spec.rope.scaling, RopeScaling::yarn);
  EXPECT_EQ(spec.rope.factor, 40);
  EXPECT_EQ(spec.rope.original_max_position, 4096);
  EXPECT_EQ(spec.rope.attention_factor, 1);  // mscale == mscale_all_dim
  EXPECT_EQ(spec.rope_pairing, RopePairing::interleaved);

  EXPECT_EQ(spec.moe.num_experts, 256);
  EXPECT_EQ(spec.moe.top_k, 8);
  EXPECT_EQ(spec.moe.expert_width, 2048);
  EXPECT_EQ(spec.moe.shared_width, 2048);
  EXPECT_TRUE(spec.moe.gate_bias);
  EXPECT_EQ(spec.moe.gate.scoring, GateScoring::sigmoid);
  EXPECT_EQ(spec.moe.gate.group_score, GroupScore::sum_top2);
  EXPECT_EQ(spec.moe.gate.num_groups, 8);
  EXPECT_EQ(spec.moe.gate.top_groups, 4);
  EXPECT_TRUE(spec.moe.gate.normalize);
  EXPECT_FLOAT_EQ(spec.moe.gate.scale, 2.5f);
}

TEST(Spec, ReadsQwen3MoeAsPublished) {
  const ModelSpec spec =
      parse(std::string(kQwen3), R"({"eos_token_id": [151645, 151643], "temperature": 0.6})").value();
  const GqaSpec& gqa = std::get<GqaSpec>(spec.attention);
  EXPECT_EQ(gqa.num_heads, 32);
  EXPECT_EQ(gqa.num_kv_heads, 4);
  EXPECT_EQ(gqa.head_dim, 128);
  EXPECT_TRUE(gqa.qk_norm);
  EXPECT_FALSE(gqa.qkv_bias);
  EXPECT_FLOAT_EQ(gqa.scale, 1 / std::sqrt(128.0f));
  EXPECT_EQ(kv_elements_per_token_layer(spec), 1024);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.rope.dim, 128);
  EXPECT_EQ(spec.rope.scaling, RopeScaling::none);
  EXPECT_EQ(spec.rope_pairing, RopePairing::half);
  EXPECT_EQ(spec.moe.gate.scoring, GateScoring::softmax);
  EXPECT_EQ(spec.moe.gate.group_score, GroupScore::none);
  EXPECT_TRUE(spec.moe.gate.normalize);
  EXPECT_EQ(spec.moe.gate.scale, 1);
  EXPECT_EQ(spec.moe.shared_width, 0);
  EXPECT_FALSE(spec.moe.gate_bias);
  EXPECT_THAT(spec.is_moe_layer, ::testing::Each(true));
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(151645, 151643));
  EXPECT_EQ(spec.bos_token_id, 151643);
}

TEST(Spec, TakesRopeFromItsNewerPlace) {
  const std::string newer = changed(kDeepSeekV3, R"({"rope_theta": "<absent>", "rope_scaling": "<absent>",
      "rope_parameters": {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 32, "beta_fast": 1, "beta_slow": 1,
                          "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}})");
  const ModelSpec spec = parse(newer).value();
  EXPECT_EQ(spec.rope.theta, 50000);
  EXPECT_EQ(spec.rope.factor, 32);
  EXPECT_NEAR(std::get<MlaSpec>(spec.attention).scale, 0.1308608, 1e-6);
}

TEST(Spec, YarnWithoutMscaleTakesItsAttentionFactorFromTheFactor) {
  const std::string config = changed(kQwen3, R"({"rope_scaling": {"rope_type": "yarn", "factor": 32.0,
      "original_max_position_embeddings": 4096, "truncate": false}})");
  const ModelSpec spec = parse(config).value();
  EXPECT_NEAR(spec.rope.attention_factor, 1.3465736, 1e-7);
  EXPECT_FALSE(spec.rope.truncate);
  EXPECT_FLOAT_EQ(std::get<GqaSpec>(spec.attention).scale, 1 / std::sqrt(128.0f));
}

TEST(Spec, ReadsLlama3AndLinearRope) {
  const ModelSpec llama3 = parse(changed(kQwen3, R"({"rope_scaling": {"rope_type": "llama3", "factor": 8,
      "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}})"))
                               .value();
  EXPECT_EQ(llama3.rope.scaling, RopeScaling::llama3);
  EXPECT_EQ(llama3.rope.high_freq_factor, 4);
  const ModelSpec linear =
      parse(changed(kQwen3, R"({"rope_scaling": {"type": "linear", "factor": 2}})")).value();
  EXPECT_EQ(linear.rope.scaling, RopeScaling::linear);
  EXPECT_EQ(linear.rope.factor, 2);
}

TEST(Spec, DerivesWhatIsMissingOrNull) {
  const ModelSpec spec = parse(changed(kQwen3, R"({"head_dim": null, "num_key_value_heads": null,
      "rms_norm_eps": "<absent>", "torch_dtype": "<absent>", "tie_word_embeddings": null, "mlp_only_layers": null,
      "bos_token_id": null, "eos_token_id": null, "rope_theta": "<absent>", "quantization_config": null,
      "intermediate_size": "<absent>"})"))
                             .value();
  EXPECT_EQ(std::get<GqaSpec>(spec.attention).head_dim, 64);
  EXPECT_EQ(std::get<GqaSpec>(spec.attention).num_kv_heads, 32);
  EXPECT_EQ(spec.rope.theta, 10000);
  EXPECT_EQ(spec.bos_token_id, -1);
  EXPECT_TRUE(spec.eos_token_ids.empty());
  EXPECT_FALSE(spec.tie_embeddings);
}

TEST(Spec, ReadsBlockScaledFp8) {
  EXPECT_FALSE(parse(std::string(kQwen3)).value().fp8_weights);
  const ModelSpec spec = parse(changed(kQwen3, R"({"quantization_config": {"activation_scheme": "dynamic",
      "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128],
      "modules_to_not_convert": ["lm_head"]}})"))
                             .value();
  EXPECT_TRUE(spec.fp8_weights);
  EXPECT_EQ(spec.weight_dtype, DType::bf16);
}

TEST(Spec, SaysWhichLayersHaveExperts) {
  const ModelSpec stepped = parse(changed(kQwen3, R"({"num_hidden_layers": 6, "decoder_sparse_step": 2,
      "mlp_only_layers": [3, 77]})"))
                                .value();
  EXPECT_THAT(stepped.is_moe_layer, ElementsAre(false, true, false, false, false, true));
  const ModelSpec frequent = parse(changed(kDeepSeekV3, R"({"num_hidden_layers": 6, "moe_layer_freq": 2,
      "first_k_dense_replace": 1})"))
                                 .value();
  EXPECT_THAT(frequent.is_moe_layer, ElementsAre(false, false, true, false, true, false));
  const ModelSpec dense =
      parse(changed(kQwen3, R"({"num_hidden_layers": 2, "mlp_only_layers": [0, 1]})")).value();
  EXPECT_THAT(dense.is_moe_layer, ElementsAre(false, false));
}

TEST(Spec, TakesOneExpertAndNoSharedExpertAndNoQueryLora) {
  EXPECT_EQ(parse(changed(kQwen3, R"({"num_experts": "<absent>", "num_local_experts": 1,
      "num_experts_per_tok": 1})"))
                .value()
                .moe.num_experts,
            1);
  for (const char* none : {R"({"n_shared_experts": null})", R"({"n_shared_experts": 0})"})
    EXPECT_EQ(parse(changed(kDeepSeekV3, none)).value().moe.shared_width, 0);
  EXPECT_EQ(parse(changed(kDeepSeekV3, R"({"n_shared_experts": "<absent>"})")).value().moe.shared_width,
            2048);
  EXPECT_EQ(std::get<MlaSpec>(parse(changed(kDeepSeekV3, R"({"q_lora_rank": null})")).value().attention)
                .q_lora_rank,
            0);
  EXPECT_EQ(parse(changed(kDeepSeekV3, R"({"n_group": 1, "topk_group": 1})")).value().moe.gate.group_score,
            GroupScore::none);
}

TEST(Spec, DropsStopIdsOutsideTheVocabulary) {
  const ModelSpec spec =
      parse(changed(kQwen3, R"({"eos_token_id": [5, 151936, -1, 5], "bos_token_id": 151936})")).value();
  EXPECT_THAT(spec.eos_token_ids, ElementsAre(5));
  EXPECT_EQ(spec.bos_token_id, -1);
}

TEST(Spec, TakesEitherNameOfTheDtype) {
  EXPECT_EQ(parse(changed(kQwen3, R"({"torch_dtype": "<absent>", "dtype": "float32"})")).value().weight_dtype,
            DType::f32);
  EXPECT_EQ(parse(changed(kQwen3, R"({"torch_dtype": "float16"})")).value().weight_dtype, DType::f32);
}

struct BadConfig {
  std::string_view base, changes, says;
};
void PrintTo(const BadConfig& bad, std::ostream* out) { *out << bad.changes; }

class SpecRefuses : public ::testing::TestWithParam<BadConfig> {};

TEST_P(SpecRefuses, NamingFileAndKey) {
  const Result<ModelSpec> spec = parse(changed(GetParam().base, GetParam().changes));
  ASSERT_TRUE(spec.has_error());
  EXPECT_THAT(spec.error().message, HasSubstr("m/config.json: "));
  EXPECT_THAT(spec.error().message, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Configs, SpecRefuses,
    ::testing::Values(
        BadConfig{kQwen3, R"({"model_type": "mamba"})",
                  "model_type: 'mamba' is not supported (known: deepseek_v3, qwen3_moe)"},
        BadConfig{kQwen3, R"({"model_type": "<absent>"})", "model_type: is missing"},
        BadConfig{kQwen3, R"({"model_type": 3})", "model_type: 3 is not a string"},
        BadConfig{kQwen3, R"({"hidden_act": "gelu"})", "hidden_act: 'gelu' is not supported (known: silu)"},
        BadConfig{kDeepSeekV3, R"({"rope_scaling": {"type": "foo", "factor": 2}})",
                  "rope_scaling.type: 'foo' is not supported (known: default, yarn, linear, llama3)"},
        BadConfig{kQwen3, R"({"rope_parameters": {"rope_type": "longrope"}})",
                  "rope_parameters.rope_type: 'longrope'"},
        BadConfig{kQwen3, R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})",
                  "rope_parameters.full_attention: rope parameters per layer type"},
        BadConfig{kQwen3, R"({"rope_scaling": {"type": "linear"}})", "rope_scaling.factor: is missing"},
        BadConfig{kQwen3, R"({"rope_scaling": {"type": "yarn", "factor": 0}})", "rope_scaling.factor: 0"},
        BadConfig{kQwen3,
                  R"({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 3}})",
                  "rope_scaling.beta_fast: 1 is smaller"},
        BadConfig{kQwen3, R"({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4,
                              "high_freq_factor": 4}})",
                  "high_freq_factor: 4 must exceed"},
        BadConfig{kQwen3, R"({"rope_scaling": [1]})", "rope_scaling: [1] is not an object"},
        BadConfig{kQwen3, R"({"rope_theta": 1})", "rope_theta: 1 is not a number from"},
        BadConfig{kQwen3, R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor: 0.5"},
        BadConfig{kQwen3, R"({"rope_parameters": {"partial_rotary_factor": 0.5}})",
                  "rope_parameters.partial_rotary_factor: 0.5"},
        BadConfig{kQwen3, R"({"use_sliding_window": true})", "use_sliding_window: true is not supported"},
        BadConfig{kQwen3, R"({"quantization_config": {"quant_method": "gptq"}})",
                  "quantization_config: quant_method 'gptq' is not supported (known: fp8)"},
        BadConfig{kQwen3, R"({"quantization_config": {"quant_method": "fp8"}})",
                  "quantization_config.weight_block_size: [] is not supported (known: [128, 128]"},
        BadConfig{kQwen3,
                  R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}})",
                  "quantization_config.weight_block_size: [64, 128] is not supported"},
        BadConfig{kQwen3, R"({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}})",
                  "quantization_config.fmt: 'e5m2' is not supported"},
        BadConfig{kQwen3,
                  R"({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}})",
                  "quantization_config.activation_scheme: 'static' is not supported"},
        BadConfig{kQwen3, R"({"torch_dtype": "float8_e4m3fn"})", "torch_dtype: 'float8_e4m3fn'"},
        BadConfig{kQwen3, R"({"head_dim": 15})", "head_dim: 15 is odd"},
        BadConfig{kQwen3, R"({"head_dim": null, "num_attention_heads": 12})", "head_dim: is missing, and"},
        BadConfig{kQwen3, R"({"num_key_value_heads": 5})", "num_key_value_heads: 5 does not divide"},
        BadConfig{kQwen3, R"({"num_attention_heads": 0})", "num_attention_heads: 0 is not an integer from 1"},
        BadConfig{kQwen3, R"({"num_experts": 0})", "num_experts: 0 is not an integer from 1"},
        BadConfig{kQwen3, R"({"num_experts": "<absent>"})", "num_experts: is missing"},
        BadConfig{kQwen3, R"({"num_experts_per_tok": 129})",
                  "num_experts_per_tok: 129 exceeds num_experts 128"},
        BadConfig{kQwen3, R"({"num_experts_per_tok": 0})", "num_experts_per_tok: 0"},
        BadConfig{kQwen3, R"({"decoder_sparse_step": 0})", "decoder_sparse_step: 0"},
        BadConfig{kQwen3, R"({"mlp_only_layers": ["a"]})", "mlp_only_layers: [\"a\"]"},
        BadConfig{kQwen3, R"({"mlp_only_layers": [0], "intermediate_size": "<absent>"})",
                  "intermediate_size: is missing"},
        BadConfig{kQwen3, R"({"hidden_size": 9223372036854775807})", "hidden_size: 9223372036854775807"},
        BadConfig{kQwen3, R"({"hidden_size": 18446744073709551615})", "hidden_size: 18446744073709551615"},
        BadConfig{kQwen3, R"({"hidden_size": -2048})", "hidden_size: -2048"},
        BadConfig{kQwen3, R"({"hidden_size": 2048.5})", "hidden_size: 2.0485E3 is not an integer"},
        BadConfig{kQwen3, R"({"hidden_size": "2048"})", "hidden_size: \"2048\" is not an integer"},
        BadConfig{kQwen3, R"({"vocab_size": 1000000000})", "vocab_size: 1000000000"},
        BadConfig{kQwen3, R"({"num_hidden_layers": 100000})", "num_hidden_layers: 100000"},
        BadConfig{kQwen3, R"({"tie_word_embeddings": "no"})",
                  "tie_word_embeddings: \"no\" is not true or false"},
        BadConfig{kQwen3, R"({"eos_token_id": "</s>"})", "eos_token_id: \"</s>\""},
        BadConfig{kDeepSeekV3, R"({"scoring_func": "softplus"})",
                  "scoring_func: 'softplus' is not supported (known: sigmoid)"},
        BadConfig{kDeepSeekV3, R"({"topk_method": "greedy"})",
                  "topk_method: 'greedy' is not supported (known: noaux_tc)"},
        BadConfig{kDeepSeekV3, R"({"n_group": 7})", "n_group: 7 does not divide n_routed_experts 256"},
        BadConfig{kDeepSeekV3, R"({"n_group": 256})", "n_group: 256 leaves one expert per group"},
        BadConfig{kDeepSeekV3, R"({"topk_group": 9})", "topk_group: 9 exceeds n_group 8"},
        BadConfig{kDeepSeekV3, R"({"n_group": 128, "topk_group": 2})",
                  "num_experts_per_tok: 8 exceeds the 4 experts of 2 groups"},
        BadConfig{kDeepSeekV3, R"({"qk_rope_head_dim": 63})", "qk_rope_head_dim: 63 is odd"},
        BadConfig{kDeepSeekV3, R"({"kv_lora_rank": null})", "kv_lora_rank: is missing"},
        BadConfig{kDeepSeekV3, R"({"n_routed_experts": 0})", "n_routed_experts: 0"},
        BadConfig{kDeepSeekV3, R"({"moe_layer_freq": 0})", "moe_layer_freq: 0"}));

TEST(Spec, RefusesWhatIsNotJson) {
  EXPECT_THAT(parse("{\"model_type\": ").error().message, HasSubstr("m/config.json: not valid JSON"));
  EXPECT_THAT(parse("[]").error().message, HasSubstr("m/config.json: the top level must be a JSON object"));
  EXPECT_TRUE(parse(std::string(100000, '[')).has_error());
  EXPECT_THAT(parse(std::string(kQwen3), "{").error().message,
              HasSubstr("m/generation_config.json: not valid JSON"));
}

TEST(Spec, NamesTheFileThatIsNotThere) {
  const TempDir dir;
  const Result<ModelSpec> spec = read_model_spec(dir.path());
  EXPECT_EQ(spec.error().code, Code::not_found);
  EXPECT_THAT(spec.error().message, HasSubstr((dir.path() / "config.json").string()));
}

TEST(Spec, UnitesStopIdsOfBothFiles) {
  const TempDir dir;
  write_file(dir.path() / "config.json", std::string(kDeepSeekV3));
  write_file(dir.path() / "generation_config.json", R"({"eos_token_id": [7, 1]})");
  EXPECT_THAT(read_model_spec(dir.path()).value().eos_token_ids, ElementsAre(1, 7));
}

}  // namespace
}  // namespace guildhall
