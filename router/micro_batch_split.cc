#include "router/micro_batch_split.h"

#include <algorithm>

namespace guildhall {
namespace {

// Multiplications of one layer for one token.
struct TokenWork {
  double linear = 0, per_position = 0;
  double of(int32_t position) const { return linear + per_position * (position + 1); }
};

TokenWork token_work(const ModelSpec& spec) {
  const auto hidden = static_cast<double>(spec.hidden);
  const double shared = 3 * hidden * static_cast<double>(spec.moe.shared_width);
  if (const auto* a = std::get_if<GqaSpec>(&spec.attention)) {
    const auto q = static_cast<double>(a->num_heads * a->head_dim);
    const auto kv = static_cast<double>(a->num_kv_heads * a->head_dim);
    return {.linear = shared + hidden * (2 * q + 2 * kv), .per_position = 2 * q};
  }
  const auto& a = std::get<MlaSpec>(spec.attention);
  const auto heads = static_cast<double>(a.num_heads), latent = static_cast<double>(a.kv_lora_rank);
  const auto nope = static_cast<double>(a.qk_nope_head_dim), rope = static_cast<double>(a.qk_rope_head_dim);
  const auto v = static_cast<double>(a.v_head_dim), low = static_cast<double>(a.q_lora_rank);
  const double q = heads * (nope + rope);
  const double queries = low > 0 ? low * (hidden + q) : hidden * q;
  const double absorb = heads * latent * (nope + v);
  return {.linear = shared + queries + absorb + hidden * (latent + rope) + heads * v * hidden,
          .per_position = heads * (2 * latent + rope)};
}

}  // namespace

int64_t split_by_work(const ModelSpec& spec, std::span<const int32_t> position_t) {
  const auto num_tokens = static_cast<int64_t>(position_t.size());
  if (num_tokens < 2) return 0;
  const TokenWork work = token_work(spec);
  double total = 0;
  for (const int32_t position : position_t) total += work.of(position);
  double before = 0;
  int64_t split = 0;
  // Forward while the next token's middle is in the first half.
  while (before + work.of(position_t[static_cast<size_t>(split)]) / 2 < total / 2)
    before += work.of(position_t[static_cast<size_t>(split++)]);
  return std::clamp<int64_t>(split, 1, num_tokens - 1);
}

}  // namespace guildhall
