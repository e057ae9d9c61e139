// kv_cache.h: the paged KV cache of one replica: memory for every layer, and which pages are free.
// One page holds block_size tokens of one sequence in all layers. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/device_memory.h"
#include "kernels/paged_attention.h"
#include "model/spec.h"

namespace guildhall {

struct KvCacheOptions {
  int64_t block_size = 16;   // tokens per page
  int64_t memory_bytes = 0;  // for all layers together
  DType dtype = DType::bf16;
  int64_t max_model_len = 0;  // one sequence of this length must fit
  int64_t max_tokens = 0;     // what all sequences together can ever use; more pages are not made
};

class KvCache {
 public:
  // resource_exhausted when one sequence of max_model_len does not fit; the message says what would.
  static Result<std::unique_ptr<KvCache>> create(const ModelSpec& spec, const KvCacheOptions& options,
                                                 DeviceMemory& device = host_memory());

  KvPages layer(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }

  int64_t block_size() const { return options_.block_size; }
  int64_t num_pages() const { return num_pages_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t capacity_tokens() const { return num_pages_ * options_.block_size; }
  int64_t pages_for(int64_t num_tokens) const { return (num_tokens + block_size() - 1) / block_size(); }

  // Grows `pages` until it covers num_tokens; false (and unchanged) when there are too few free pages.
  bool grow(std::vector<int32_t>& pages, int64_t num_tokens);
  // Returns all of `pages` to the pool and clears it.
  void release(std::vector<int32_t>& pages);

 private:
  KvCache(const ModelSpec& spec, const KvCacheOptions& options, int64_t num_pages, MemoryBlock memory);
  KvCacheOptions options_;
  int64_t num_pages_ = 0;
  MemoryBlock memory_;           // the device's
  std::vector<KvPages> layers_;  // [L]
  std::vector<int32_t> free_;    // a stack: recently used pages are reused first
};

}  // namespace guildhall
