// rope_config.cc: rotary embedding's keys, in their newer and older places.
#include <fmt/format.h>

#include <cmath>

#include "model/families/family.h"

namespace guildhall {
namespace {

constexpr RealRange kFactorRange{1, 1e6};
constexpr RealRange kThetaRange{1.0001,
                                1e15};  // at 1 the frequencies coincide and YaRN divides by ln(theta) = 0
constexpr RealRange kPositiveRange{1e-9, 1e9};

Result<void> read_yarn(const JsonObject& block, int64_t max_position, RopeConfig& rope) {
  RopeParams& params = rope.params;
  GH_ASSIGN(params.factor, block.real("factor", kFactorRange));
  GH_ASSIGN(params.original_max_position,
            block.integer_or("original_max_position_embeddings", max_position, kPositionRange));
  GH_ASSIGN(params.beta_fast, block.real_or("beta_fast", 32, kPositiveRange));
  GH_ASSIGN(params.beta_slow, block.real_or("beta_slow", 1, kPositiveRange));
  if (params.beta_fast < params.beta_slow)
    return block.error(Code::invalid_argument, "beta_fast",
                       fmt::format("{} is smaller than beta_slow {}", params.beta_fast, params.beta_slow));
  GH_ASSIGN(params.truncate, block.boolean_or("truncate", true));
  GH_ASSIGN(const double mscale, block.real_or("mscale", 0, kScaleRange));
  GH_ASSIGN(rope.mscale_all_dim, block.real_or("mscale_all_dim", 0, kScaleRange));
  const double implied =
      mscale != 0 && rope.mscale_all_dim != 0
          ? yarn_mscale(params.factor, mscale) / yarn_mscale(params.factor, rope.mscale_all_dim)
          : yarn_mscale(params.factor, 1);
  GH_ASSIGN(params.attention_factor, block.real_or("attention_factor", implied, kPositiveRange));
  return {};
}

Result<void> read_llama3(const JsonObject& block, int64_t max_position, RopeParams& params) {
  GH_ASSIGN(params.factor, block.real("factor", kFactorRange));
  GH_ASSIGN(params.original_max_position,
            block.integer_or("original_max_position_embeddings", max_position, kPositionRange));
  GH_ASSIGN(params.low_freq_factor, block.real("low_freq_factor", kPositiveRange));
  GH_ASSIGN(params.high_freq_factor, block.real("high_freq_factor", kPositiveRange));
  if (params.high_freq_factor <= params.low_freq_factor)
    return block.error(
        Code::invalid_argument, "high_freq_factor",
        fmt::format("{} must exceed low_freq_factor {}", params.high_freq_factor, params.low_freq_factor));
  return {};
}

// Only whole-head rotation exists in these families; nested blocks are another layer type's parameters.
Result<void> refuse_unsupported(const JsonObject& object) {
  GH_ASSIGN(const double partial, object.real_or("partial_rotary_factor", 1, {0, 1}));
  if (partial != 1)
    return object.error(Code::unsupported, "partial_rotary_factor",
                        fmt::format("{} is not supported for this family (known: 1)", partial));
  return {};
}

}  // namespace

double yarn_mscale(double factor, double a) { return factor <= 1 ? 1.0 : 0.1 * a * std::log(factor) + 1.0; }

Result<RopeConfig> read_rope(const JsonObject& config, int64_t dim, int64_t max_position) {
  RopeConfig rope;
  rope.params.dim = dim;
  GH_TRY(refuse_unsupported(config));
  GH_ASSIGN(rope.params.theta, config.real_or("rope_theta", 10000, kThetaRange));
  GH_ASSIGN(std::optional<JsonObject> block, config.object("rope_scaling"));
  if (!block || block->raw().empty()) {
    GH_ASSIGN(block, config.object("rope_parameters"));
  }
  if (!block) return rope;

  for (const auto& item : block->raw()) {
    if (item.value().is_object())
      return block->error(Code::unsupported, item.key(),
                          "rope parameters per layer type are not supported (known: one set for all layers)");
  }
  GH_TRY(refuse_unsupported(*block));
  GH_ASSIGN(rope.params.theta, block->real_or("rope_theta", rope.params.theta, kThetaRange));
  const std::string_view type_key = block->any_of({"rope_type", "type"});
  GH_ASSIGN(const std::string type, read_choice(*block, type_key, {"default", "yarn", "linear", "llama3"}));
  if (type == "yarn") {
    rope.params.scaling = RopeScaling::yarn;
    GH_TRY(read_yarn(*block, max_position, rope));
  } else if (type == "linear") {
    rope.params.scaling = RopeScaling::linear;
    GH_ASSIGN(rope.params.factor, block->real("factor", kFactorRange));
  } else if (type == "llama3") {
    rope.params.scaling = RopeScaling::llama3;
    GH_TRY(read_llama3(*block, max_position, rope.params));
  }
  return rope;
}

}  // namespace guildhall
