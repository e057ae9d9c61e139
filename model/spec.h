// spec.h: a checkpoint's architecture as types: what config.json says, with every family's aliases resolved.
// Adding a family is one function from config.json to ModelSpec (families/<name>.cc) and a golden test.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "kernels/dtype.h"
#include "kernels/gate_topk.h"
#include "kernels/rope.h"

namespace guildhall {

// Grouped-query attention (Qwen3, Mixtral, Llama).
struct GqaSpec {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  bool qk_norm = false;  // per-head RMSNorm before RoPE
  bool qkv_bias = false, o_bias = false;
  float scale = 0;  // softmax scale
};

// Multi-head latent attention (DeepSeek-V2/V3).
struct MlaSpec {
  int64_t num_heads = 0;
  int64_t q_lora_rank = 0;   // 0: q_proj straight from hidden
  int64_t kv_lora_rank = 0;  // r
  int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  bool attention_bias = false;  // biases q_a, kv_a, o
  float norm_eps = 1e-6f;       // of the inner norms
  float scale = 0;              // softmax scale, YaRN's m² applied
};

struct MoeSpec {
  int64_t num_experts = 0, top_k = 0, expert_width = 0;
  int64_t shared_width = 0;  // width of the one shared MLP; 0: none
  GateRule gate;
  bool gate_bias = false;  // e_score_correction_bias is present
};

struct ModelSpec {
  std::string model_type;  // as in config.json
  int64_t hidden = 0, num_layers = 0, vocab_size = 0, max_position = 0;
  int64_t dense_width = 0;  // MLP width of the layers without experts
  float rms_eps = 1e-6f;
  bool tie_embeddings = false;
  DType weight_dtype = DType::bf16;  // of the checkpoint's matrices, as declared; tensors decide
  // Linear layers are declared as e4m3 with a scale per 128x128 block (quantization_config); embeddings, the
  // output layer, norms and gates stay in weight_dtype.
  bool fp8_weights = false;
  std::variant<GqaSpec, MlaSpec> attention;
  RopeParams rope;
  RopePairing rope_pairing = RopePairing::half;
  MoeSpec moe;
  std::vector<bool> is_moe_layer;      // [num_layers]
  int32_t bos_token_id = -1;           // -1: none
  std::vector<int32_t> eos_token_ids;  // united with generation_config.json
};

// Reads DIR/config.json (and generation_config.json if present). Errors name the file and the key:
// unknown model_type, rope type, hidden_act or scoring_func, missing or contradictory dimensions.
Result<ModelSpec> read_model_spec(const std::filesystem::path& dir);

// The same from the files' text; an empty generation_config is an absent one. `dir` names the files in
// errors.
Result<ModelSpec> parse_model_spec(std::string_view config_json, std::string_view generation_config_json,
                                   const std::filesystem::path& dir);

// Floats (keys and values) one token takes in one layer's cache.
int64_t kv_elements_per_token_layer(const ModelSpec& spec);

}  // namespace guildhall
