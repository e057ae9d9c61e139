// kv_memory.h: how much of a GPU's memory the KV cache takes: what weights and a rehearsed step, measured,
// leave of the part that this process may fill.
#pragma once

#include <optional>
#include <vector>

#include "router/forward.h"

namespace guildhall {

struct KvMemoryRule {
  int64_t memory_bytes = 0;        // router.kv_cache.memory
  std::optional<double> fraction;  // router.kv_cache.memory_fraction: instead of memory_bytes
  double margin = 0;               // router.kv_cache.memory_margin
};

// Bytes for the cache where `used_bytes` are in use. resource_exhausted, with the arithmetic, when there is
// no room.
Result<int64_t> kv_memory(const KvMemoryRule& rule, const std::string& device, int64_t total_bytes,
                          int64_t used_bytes);

struct RehearsalOptions {
  int64_t max_tokens = 0, max_sequences = 0, max_model_len = 0;
  int64_t block_size = 16;
  DType kv_dtype = DType::f32;
  std::vector<RowCodecs> codecs_w = {};  // of the rows to and from each worker
};
// Bytes in use on the device while a forward pass of `shard`, whose weights these are, stands ready and the
// largest steps have run.
Result<int64_t> measure_peak(const ModelShard& shard, const DenseWeights& weights, Ops& ops,
                             const RehearsalOptions& options);

}  // namespace guildhall
