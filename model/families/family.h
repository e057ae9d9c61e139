// family.h: what one model family adds to a spec, and what all families share.
// A family is one function that reads its own keys after the common ones; spec.cc's table lists them.
#pragma once

#include <string_view>

#include "base/status.h"
#include "model/json_reader.h"
#include "model/spec.h"

namespace guildhall {

// Bounds of a checkpoint's dimensions: several times the largest published model, and small enough that the
// bytes of a whole model (every layer, every expert) never overflow int64.
inline constexpr IntRange kHiddenRange{1, 1 << 17};
inline constexpr IntRange kWidthRange{1, 1 << 18};
inline constexpr IntRange kLayersRange{1, 1 << 10};
inline constexpr IntRange kVocabRange{1, 1 << 22};
inline constexpr IntRange kHeadsRange{1, 1 << 12};
inline constexpr IntRange kHeadDimRange{1, 1 << 12};
inline constexpr IntRange kRankRange{1, 1 << 16};
inline constexpr IntRange kExpertsRange{1, 1 << 12};
inline constexpr IntRange kPositionRange{1, 1 << 27};
inline constexpr RealRange kEpsRange{0, 1};
inline constexpr RealRange kScaleRange{0, 1e6};

// Each fills `spec`, whose common part (hidden, layers, vocabulary, ...) is already read.
Result<void> deepseek_v3_spec(const JsonObject& config, ModelSpec& spec);
Result<void> qwen3_moe_spec(const JsonObject& config, ModelSpec& spec);

struct RopeConfig {
  RopeParams params;
  double mscale_all_dim = 0;  // yarn; 0: absent. MLA's softmax scale needs it
};

// rope_parameters (newer files) or rope_theta with rope_scaling (older ones). dim: rotated dimensions.
Result<RopeConfig> read_rope(const JsonObject& config, int64_t dim, int64_t max_position);

// YaRN's m(s, a): 1 for s <= 1, else 0.1 a ln(s) + 1.
double yarn_mscale(double factor, double a);

// The key must be one of `known`; absent: the first of them.
Result<std::string> read_choice(const JsonObject& object, std::string_view key,
                                std::initializer_list<std::string_view> known);

// Number of experts (under either of its names), top-k and expert width, checked against each other.
Result<void> read_experts(const JsonObject& config, std::string_view count_key, MoeSpec& moe);

// An odd number of rotated dimensions cannot be paired; `key` is the one that says it.
Result<void> check_even(const JsonObject& config, std::string_view key, int64_t dim);

}  // namespace guildhall
