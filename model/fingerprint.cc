#include "model/fingerprint.h"

#include <string_view>

namespace guildhall {
namespace {

// FNV-1a over the values' bytes, little end first.
class Hash {
 public:
  void add(int64_t value) {
    for (int i = 0; i < 8; ++i) add_byte(static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i)));
  }
  void add(std::string_view text) {
    for (const char c : text) add_byte(static_cast<uint8_t>(c));
    add(static_cast<int64_t>(text.size()));
  }
  uint64_t value() const { return hash_; }

 private:
  void add_byte(uint8_t byte) { hash_ = (hash_ ^ byte) * 1099511628211ull; }
  uint64_t hash_ = 14695981039346656037ull;
};

}  // namespace

uint64_t fingerprint(const ModelSpec& spec) {
  Hash hash;
  hash.add(spec.model_type);
  for (const int64_t value :
       {spec.hidden, spec.num_layers, spec.vocab_size, spec.dense_width, spec.moe.num_experts, spec.moe.top_k,
        spec.moe.expert_width, spec.moe.shared_width, static_cast<int64_t>(spec.weight_dtype),
        static_cast<int64_t>(spec.fp8_weights)})
    hash.add(value);
  for (const bool moe : spec.is_moe_layer) hash.add(static_cast<int64_t>(moe));
  return hash.value();
}

}  // namespace guildhall
