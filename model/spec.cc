#include "model/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/log.h"
#include "model/families/family.h"
#include "model/json_reader.h"

namespace guildhall {
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;  // published files are a few KB

struct Family {
  std::string_view model_type;
  Result<void> (*spec)(const JsonObject&, ModelSpec&);
};

constexpr std::array<Family, 2> kFamilies{{
    {"deepseek_v3", deepseek_v3_spec},
    {"qwen3_moe", qwen3_moe_spec},
}};

Result<const Family*> find_family(const JsonObject& config) {
  GH_ASSIGN(const std::string model_type, config.text("model_type"));
  std::vector<std::string_view> known;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return &family;
    known.push_back(family.model_type);
  }
  return config.error(Code::unsupported, "model_type",
                      fmt::format("'{}' is not supported (known: {})", model_type, fmt::join(known, ", ")));
}

// f16 matrices are widened at load, so they count as f32.
Result<DType> read_weight_dtype(const JsonObject& config) {
  const std::string_view key = config.any_of({"dtype", "torch_dtype"});
  GH_ASSIGN(const std::string name, read_choice(config, key, {"bfloat16", "float32", "float16", "auto"}));
  return name == "bfloat16" || name == "auto" ? DType::bf16 : DType::f32;
}

// quantization_config: block-scaled fp8 as DeepSeek-V3 publishes it, and nothing else.
Result<void> read_quantization(const JsonObject& config, ModelSpec& spec) {
  GH_ASSIGN(const std::optional<JsonObject> block, config.object("quantization_config"));
  if (!block) return {};
  GH_ASSIGN(const std::string method, block->text_or("quant_method", "unnamed"));
  if (method != "fp8")
    return config.error(
        Code::unsupported, "quantization_config",
        fmt::format("quant_method '{}' is not supported (known: fp8); use a checkpoint with bfloat16, "
                    "float16, float32 or block-scaled fp8 weights",
                    method));
  GH_TRY(read_choice(*block, "fmt", {"e4m3"}));
  GH_TRY(read_choice(*block, "activation_scheme", {"dynamic"}));
  GH_TRY(
      read_choice(*block, "scale_fmt", {"float", "ue8m0"}));  // of activations; either way weights' are f32
  GH_ASSIGN(const std::vector<int64_t> size, block->integers("weight_block_size", {1, 1 << 20}));
  if (size != std::vector<int64_t>{kFp8BlockSize, kFp8BlockSize})
    return block->error(
        Code::unsupported, "weight_block_size",
        fmt::format("[{}] is not supported (known: [128, 128], one scale per block of 128x128 weights)",
                    fmt::join(size, ", ")));
  spec.fp8_weights = true;
  return {};
}

Result<void> read_common(const JsonObject& config, ModelSpec& spec) {
  GH_TRY(read_quantization(config, spec));
  GH_TRY(read_choice(config, "hidden_act", {"silu"}));
  GH_ASSIGN(spec.hidden, config.integer("hidden_size", kHiddenRange));
  GH_ASSIGN(spec.num_layers, config.integer("num_hidden_layers", kLayersRange));
  GH_ASSIGN(spec.vocab_size, config.integer("vocab_size", kVocabRange));
  GH_ASSIGN(spec.max_position, config.integer("max_position_embeddings", kPositionRange));
  GH_ASSIGN(spec.dense_width, config.integer_or("intermediate_size", 0, kWidthRange));
  GH_ASSIGN(const double eps, config.real_or("rms_norm_eps", 1e-6, kEpsRange));
  spec.rms_eps = static_cast<float>(eps);
  GH_ASSIGN(spec.tie_embeddings, config.boolean_or("tie_word_embeddings", false));
  GH_ASSIGN(spec.weight_dtype, read_weight_dtype(config));
  spec.is_moe_layer.assign(static_cast<size_t>(spec.num_layers), false);
  return {};
}

// Ids outside the vocabulary can never be produced; files do contain them, so they are dropped with one
// warning.
Result<void> read_stop_ids(const JsonObject& config, ModelSpec& spec) {
  GH_ASSIGN(const std::vector<int64_t> ids, config.integers("eos_token_id", {INT32_MIN, INT32_MAX}));
  int64_t num_dropped = 0;
  for (const int64_t id : ids) {
    if (id < 0 || id >= spec.vocab_size) {
      ++num_dropped;
    } else if (const int32_t eos = static_cast<int32_t>(id);
               std::find(spec.eos_token_ids.begin(), spec.eos_token_ids.end(), eos) ==
               spec.eos_token_ids.end()) {
      spec.eos_token_ids.push_back(eos);
    }
  }
  if (num_dropped > 0)
    log_warn("eos_ignored", "ids_outside_vocabulary={} vocab_size={}", num_dropped, spec.vocab_size);
  return {};
}

Result<void> read_bos_id(const JsonObject& config, ModelSpec& spec) {
  GH_ASSIGN(const std::vector<int64_t> ids, config.integers("bos_token_id", {INT32_MIN, INT32_MAX}));
  if (!ids.empty() && ids.front() >= 0 && ids.front() < spec.vocab_size)
    spec.bos_token_id = static_cast<int32_t>(ids.front());
  return {};
}

}  // namespace

Result<std::string> read_choice(const JsonObject& object, std::string_view key,
                                std::initializer_list<std::string_view> known) {
  GH_ASSIGN(const std::string value, object.text_or(key, *known.begin()));
  if (std::find(known.begin(), known.end(), value) == known.end())
    return object.error(Code::unsupported, key,
                        fmt::format("'{}' is not supported (known: {})", value, fmt::join(known, ", ")));
  return value;
}

Result<void> read_experts(const JsonObject& config, std::string_view count_key, MoeSpec& moe) {
  GH_ASSIGN(moe.num_experts, config.integer(count_key, kExpertsRange));
  GH_ASSIGN(moe.top_k, config.integer("num_experts_per_tok", kExpertsRange));
  GH_ASSIGN(moe.expert_width, config.integer("moe_intermediate_size", kWidthRange));
  if (moe.top_k > moe.num_experts)
    return config.error(Code::invalid_argument, "num_experts_per_tok",
                        fmt::format("{} exceeds {} {}", moe.top_k, count_key, moe.num_experts));
  return {};
}

Result<void> check_even(const JsonObject& config, std::string_view key, int64_t dim) {
  if (dim % 2 == 0) return {};
  return config.error(Code::invalid_argument, key,
                      fmt::format("{} is odd; rotary embedding rotates pairs of dimensions", dim));
}

Result<ModelSpec> parse_model_spec(std::string_view config_json, std::string_view generation_config_json,
                                   const std::filesystem::path& dir) {
  const std::string file = (dir / "config.json").string();
  GH_ASSIGN(const boost::json::object root, parse_json_object(config_json, file));
  const JsonObject config(root, file + ": ");
  GH_ASSIGN(const Family* family, find_family(config));

  ModelSpec spec;
  spec.model_type = family->model_type;
  GH_TRY(read_common(config, spec));
  GH_TRY(family->spec(config, spec));
  const bool any_dense =
      std::find(spec.is_moe_layer.begin(), spec.is_moe_layer.end(), false) != spec.is_moe_layer.end();
  if (any_dense && spec.dense_width == 0)
    return config.error(Code::invalid_argument, "intermediate_size",
                        "is missing, and some layers have no experts");

  GH_TRY(read_bos_id(config, spec));
  GH_TRY(read_stop_ids(config, spec));
  if (!generation_config_json.empty()) {
    const std::string generation_file = (dir / "generation_config.json").string();
    GH_ASSIGN(const boost::json::object generation,
              parse_json_object(generation_config_json, generation_file));
    GH_TRY(read_stop_ids(JsonObject(generation, generation_file + ": "), spec));
  }
  return spec;
}

Result<ModelSpec> read_model_spec(const std::filesystem::path& dir) {
  GH_ASSIGN(const std::string config, read_text_file(dir / "config.json", kMaxConfigBytes));
  std::string generation;
  const std::filesystem::path generation_path = dir / "generation_config.json";
  if (std::error_code error; std::filesystem::exists(generation_path, error)) {
    GH_ASSIGN(generation, read_text_file(generation_path, kMaxConfigBytes));
  }
  return parse_model_spec(config, generation, dir);
}

int64_t kv_elements_per_token_layer(const ModelSpec& spec) {
  if (const auto* mla = std::get_if<MlaSpec>(&spec.attention))
    return mla->kv_lora_rank + mla->qk_rope_head_dim;
  const auto& gqa = std::get<GqaSpec>(spec.attention);
  return 2 * gqa.num_kv_heads * gqa.head_dim;
}

}  // namespace guildhall
