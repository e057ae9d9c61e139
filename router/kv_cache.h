// kv_cache.h: the paged KV cache of one replica: memory for every layer, and the pool of its pages.
// One page holds block_size tokens in all layers. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/ops.h"
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
  int64_t swap_bytes = 0;  // of host memory, for pages of preempted sequences (page_swap.h)
};

// Keys or values of one layer: page p lies at data + p * page_bytes.
struct PageArray {
  std::byte* data = nullptr;
  int64_t page_bytes = 0;
};

class KvCache {
 public:
  // resource_exhausted when one sequence of max_model_len does not fit; the message says what would.
  static Result<std::unique_ptr<KvCache>> create(const ModelSpec& spec, const KvCacheOptions& options,
                                                 DeviceMemory& device = host_memory());

  // The pages that create() makes, or its refusal; allocates nothing.
  static Result<int64_t> count_pages(const ModelSpec& spec, const KvCacheOptions& options);

  // Of all layers together.
  static int64_t page_bytes(const ModelSpec& spec, const KvCacheOptions& options);

  KvPages layer(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }

  // All that pages consist of, in all layers.
  std::span<const PageArray> arrays() const { return arrays_; }
  int64_t page_bytes() const { return page_bytes_; }  // in all of them

  // The host's pages are dense, their arrays in the order of arrays().
  int64_t num_swap_pages() const { return num_swap_pages_; }
  std::byte* swap_page(int64_t page) { return swap_memory_.get() + page * page_bytes_; }

  // Copies a page in all layers.
  void copy_page(Ops& ops, int32_t from, int32_t to) const;

  int64_t block_size() const { return options_.block_size; }
  int64_t num_pages() const { return pool_.num_pages(); }
  int64_t capacity_tokens() const { return num_pages() * options_.block_size; }
  bool prefix_caching() const { return options_.prefix_caching; }
  PagePool& pool() { return pool_; }

 private:
  KvCache(const ModelSpec& spec, const KvCacheOptions& options, int64_t num_pages, MemoryBlock memory,
          MemoryBlock swap_memory);
  KvCacheOptions options_;
  MemoryBlock memory_;       // the device's
  MemoryBlock swap_memory_;  // the host's, pinned
  int64_t page_bytes_ = 0, num_swap_pages_ = 0;
  std::vector<KvPages> layers_;  // [L]
  std::vector<PageArray> arrays_;
  PagePool pool_;
};

// The cache of one rank of tensor parallelism, and what copies there. All ranks' have pages and swap pages of
// the same numbers; the first rank's pool keeps the books of all.
struct RankCache {
  KvCache* cache = nullptr;
  Ops* ops = nullptr;
};

// Between a page and page_bytes() of the host's memory (pinned, for a device): its arrays one behind the
// other, in the order of arrays(). Transfers as Ops has them.
void download_page(const RankCache& rank, int32_t page, std::byte* host);
void upload_page(const RankCache& rank, const std::byte* host, int32_t page);

}  // namespace guildhall
