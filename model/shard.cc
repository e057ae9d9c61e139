#include "model/shard.h"

#include <fmt/format.h>

#include <algorithm>

namespace guildhall {
namespace {

// Columns and vocabulary are divided at multiples of this where there are enough: 32 bytes of bf16, and the
// depth of a tensor core's tile. Of fp8 at blocks, so that they stay whole.
constexpr int64_t kColumnUnit = 16;

int64_t column_unit(const ModelSpec& spec, int64_t width, int num_ranks) {
  return spec.fp8_weights && width >= kFp8BlockSize * num_ranks ? kFp8BlockSize : kColumnUnit;
}

IndexRange part_of(int64_t size, int num_parts, int part, int64_t unit = 1) {
  if (size < unit * num_parts) unit = 1;
  const int64_t num_units = (size + unit - 1) / unit;
  const auto bound = [&](int64_t i) { return std::min(size, unit * (num_units * i / num_parts)); };
  return {bound(part), bound(part + 1)};
}

void divide_gqa(const GqaSpec& whole, ModelShard& shard) {
  const int64_t group = whole.num_heads / whole.num_kv_heads, n = shard.num_ranks, r = shard.rank;
  if (n <= whole.num_kv_heads) {
    shard.kv_heads = part_of(whole.num_kv_heads, shard.num_ranks, shard.rank);
    shard.heads = {shard.kv_heads.begin * group, shard.kv_heads.end * group};
  } else {  // several ranks share a head of keys and divide its queries
    const int64_t kv = r * whole.num_kv_heads / n;
    const auto first_rank = [&](int64_t k) { return (k * n + whole.num_kv_heads - 1) / whole.num_kv_heads; };
    const IndexRange queries = part_of(group, static_cast<int>(first_rank(kv + 1) - first_rank(kv)),
                                       static_cast<int>(r - first_rank(kv)));
    shard.kv_heads = {kv, kv + 1};
    shard.heads = {kv * group + queries.begin, kv * group + queries.end};
  }
  auto& gqa = std::get<GqaSpec>(shard.spec.attention);
  gqa.num_heads = shard.heads.size();
  gqa.num_kv_heads = shard.kv_heads.size();
}

ModelShard divide(const ModelSpec& spec, int rank, int num_ranks) {
  ModelShard shard{.rank = rank, .num_ranks = num_ranks, .spec = spec, .vocab_size = spec.vocab_size};
  if (const auto* gqa = std::get_if<GqaSpec>(&spec.attention)) {
    divide_gqa(*gqa, shard);
  } else {
    auto& mla = std::get<MlaSpec>(shard.spec.attention);
    shard.heads = part_of(mla.num_heads, num_ranks, rank);
    mla.num_heads = shard.heads.size();
  }
  shard.dense_columns =
      part_of(spec.dense_width, num_ranks, rank, column_unit(spec, spec.dense_width, num_ranks));
  shard.shared_columns =
      part_of(spec.moe.shared_width, num_ranks, rank, column_unit(spec, spec.moe.shared_width, num_ranks));
  shard.vocab = part_of(spec.vocab_size, num_ranks, rank, kColumnUnit);
  shard.spec.dense_width = shard.dense_columns.size();
  shard.spec.moe.shared_width = shard.shared_columns.size();
  shard.spec.vocab_size = shard.vocab.size();
  return shard;
}

}  // namespace

ModelShard whole_model(const ModelSpec& spec) { return divide(spec, 0, 1); }

Result<ModelShard> make_shard(const ModelSpec& spec, int rank, int num_ranks) {
  const auto* gqa = std::get_if<GqaSpec>(&spec.attention);
  const bool has_dense = std::ranges::find(spec.is_moe_layer, false) != spec.is_moe_layer.end();
  const struct {
    int64_t size;
    const char* name;
  } limits[] = {
      {gqa ? gqa->num_heads : std::get<MlaSpec>(spec.attention).num_heads, "attention heads"},
      {has_dense ? spec.dense_width : INT64_MAX, "columns of a dense MLP"},
      {spec.moe.shared_width > 0 ? spec.moe.shared_width : INT64_MAX, "columns of the shared experts"},
      {spec.vocab_size, "rows of the vocabulary"},
  };
  const auto& least = *std::ranges::min_element(limits, {}, [](const auto& limit) { return limit.size; });
  if (num_ranks > least.size)
    return Status{
        Code::invalid_argument,
        fmt::format("router.dense.tensor_parallel: {} ranks cannot share the model's {} {}; largest "
                    "that works: {}",
                    num_ranks, least.size, least.name, least.size)};
  return divide(spec, rank, num_ranks);
}

}  // namespace guildhall
