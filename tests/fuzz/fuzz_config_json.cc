// config.json (and, after a zero byte, generation_config.json) of any bytes: a spec that is accepted is
// consistent. The same bytes also go through the shard index's parser.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "model/checkpoint.h"
#include "model/spec.h"

namespace {

void check(bool good) {
  if (!good) std::abort();
}

void check_spec(const guildhall::ModelSpec& spec) {
  using namespace guildhall;
  check(spec.hidden > 0 && spec.num_layers > 0 && spec.vocab_size > 0);
  check(spec.is_moe_layer.size() == static_cast<size_t>(spec.num_layers));
  check(spec.rope.dim > 0 && spec.rope.dim % 2 == 0 && spec.rope.theta > 1);
  check(spec.moe.top_k > 0 && spec.moe.top_k <= spec.moe.num_experts);
  check(spec.moe.num_experts % spec.moe.gate.num_groups == 0);
  for (const int32_t id : spec.eos_token_ids) check(id >= 0 && id < spec.vocab_size);
  check(kv_elements_per_token_layer(spec) > 0);
  // Three matrices of at most 4 bytes an element, each padded to a line.
  check(spec.moe.expert_width > 0 && spec.moe.expert_width <= INT64_MAX / 16 / spec.hidden);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const std::string_view config = text.substr(0, zero);
  const std::string_view generation = zero == std::string_view::npos ? "" : text.substr(zero + 1);
  if (const auto spec = guildhall::parse_model_spec(config, generation, "d"); spec.has_value())
    check_spec(*spec);
  if (const auto shards = guildhall::parse_checkpoint_index(text, "i"); shards.has_value()) {
    for (const auto& [tensor, shard] : *shards) check(!shard.empty() && shard.find('/') == std::string::npos);
  }
  return 0;
}
