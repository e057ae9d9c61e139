// kv_cache.h: the paged KV cache of one replica: memory for every layer, and the pool of its pages.
// One page holds block_size tokens in all layers. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/device_memory.h"
#include "kernels/paged_attention.h"
#include "model/spec.h"
#include "router/page_pool.h"

namespace guildhall {

struct KvCacheOptions {
  int64_t block_size = 16;   // tokens per page
  int64_t memory_bytes = 0;  // for all layers together
  DType dtype = DType::bf16;
  int64_t max_model_len = 0;  // one sequence of this length must fit
  int64_t max_tokens = 0;     // what all sequences together can ever use
  // Keep pages that no sequence uses for prompts that begin alike. Without it, memory beyond max_tokens is
  // left alone.
  bool prefix_caching = true;
};

class KvCache {
 public:
  // resource_exhausted when one sequence of max_model_len does not fit; the message says what would.
  static Result<std::unique_ptr<KvCache>> create(const ModelSpec& spec, const KvCacheOptions& options,
                                                 DeviceMemory& device = host_memory());

  // Of all layers together.
  static int64_t page_bytes(const ModelSpec& spec, const KvCacheOptions& options);

  KvPages layer(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }

  int64_t block_size() const { return options_.block_size; }
  int64_t num_pages() const { return pool_.num_pages(); }
  int64_t capacity_tokens() const { return num_pages() * options_.block_size; }
  bool prefix_caching() const { return options_.prefix_caching; }
  PagePool& pool() { return pool_; }

 private:
  KvCache(const ModelSpec& spec, const KvCacheOptions& options, int64_t num_pages, MemoryBlock memory);
  KvCacheOptions options_;
  MemoryBlock memory_;           // the device's
  std::vector<KvPages> layers_;  // [L]
  PagePool pool_;
};

}  // namespace guildhall
