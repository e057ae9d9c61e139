#include "router/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/units.h"

namespace guildhall {
namespace {

bool values_are_keys(const ModelSpec& spec) { return std::holds_alternative<MlaSpec>(spec.attention); }

// Of one layer's keys, and of its values unless they are in the keys.
KvPageLayout page_layout(const ModelSpec& spec, const KvCacheOptions& options) {
  if (const auto* gqa = std::get_if<GqaSpec>(&spec.attention))
    return kv_page_layout(options.dtype, options.block_size * gqa->num_kv_heads, gqa->head_dim, 0);
  const auto& mla = std::get<MlaSpec>(spec.attention);
  return kv_page_layout(options.dtype, options.block_size, mla.kv_lora_rank, mla.qk_rope_head_dim);
}

KvPages page_shape(const ModelSpec& spec, const KvCacheOptions& options) {
  KvPages pages{.dtype = options.dtype, .block_size = options.block_size};
  if (const auto* gqa = std::get_if<GqaSpec>(&spec.attention)) {
    pages.num_kv_heads = gqa->num_kv_heads;
    pages.k_dim = pages.v_dim = pages.v_stride = gqa->head_dim;
  } else {
    const auto& mla = std::get<MlaSpec>(spec.attention);
    pages.num_kv_heads = 1;
    pages.k_dim = pages.v_stride = mla.kv_lora_rank + mla.qk_rope_head_dim;
    pages.v_dim = mla.kv_lora_rank;
  }
  return pages;
}

}  // namespace

int64_t KvCache::page_bytes(const ModelSpec& spec, const KvCacheOptions& options) {
  return page_layout(spec, options).page_bytes * (values_are_keys(spec) ? 1 : 2) * spec.num_layers;
}

Result<int64_t> KvCache::count_pages(const ModelSpec& spec, const KvCacheOptions& options) {
  const int64_t page_bytes = KvCache::page_bytes(spec, options);
  const int64_t usable = (options.max_tokens + options.block_size - 1) / options.block_size;
  const int64_t fitting = options.memory_bytes / page_bytes;
  const int64_t num_pages = options.prefix_caching ? fitting : std::min(fitting, usable);
  const int64_t capacity = num_pages * options.block_size;
  if (capacity < options.max_model_len)
    return Status{
        Code::resource_exhausted,
        fmt::format("router.kv_cache.memory: {} holds {} tokens, model.max_model_len is {}; largest context "
                    "that fits: {}; memory that would do: {}",
                    format_bytes(options.memory_bytes), capacity, options.max_model_len, capacity,
                    format_bytes(page_bytes *
                                 ((options.max_model_len + options.block_size - 1) / options.block_size)))};
  return num_pages;
}

Result<std::unique_ptr<KvCache>> KvCache::create(const ModelSpec& spec, const KvCacheOptions& options,
                                                 DeviceMemory& device) {
  GH_ASSIGN(const int64_t num_pages, count_pages(spec, options));
  const int64_t page_bytes = KvCache::page_bytes(spec, options);
  Result<MemoryBlock> memory = device.allocate(num_pages * page_bytes);
  if (memory.has_error())
    return Status{memory.error().code, "router.kv_cache.memory: " + memory.error().message};
  const int64_t swap_bytes = options.swap_bytes / page_bytes * page_bytes;
  Result<MemoryBlock> swap_memory = MemoryBlock();
  if (swap_bytes > 0) swap_memory = device.allocate_pinned(swap_bytes);
  if (swap_memory.has_error())
    return Status{swap_memory.error().code, "router.kv_cache.swap: " + swap_memory.error().message};
  return std::unique_ptr<KvCache>(
      new KvCache(spec, options, num_pages, *std::move(memory), *std::move(swap_memory)));
}

KvCache::KvCache(const ModelSpec& spec, const KvCacheOptions& options, int64_t num_pages, MemoryBlock memory,
                 MemoryBlock swap_memory)
    : options_(options),
      memory_(std::move(memory)),
      swap_memory_(std::move(swap_memory)),
      page_bytes_(page_bytes(spec, options)),
      num_swap_pages_(options.swap_bytes / page_bytes_),
      pool_(num_pages, options.block_size) {
  KvPages pages = page_shape(spec, options);
  pages.num_pages = num_pages;
  const int64_t array_page_bytes = page_layout(spec, options).page_bytes;
  std::byte* next = memory_.get();
  const auto next_array = [&] {
    arrays_.push_back({next, array_page_bytes});
    return std::exchange(next, next + num_pages * array_page_bytes);
  };
  for (int64_t l = 0; l < spec.num_layers; ++l) {
    pages.k = next_array();
    pages.v = values_are_keys(spec) ? pages.k : next_array();
    layers_.push_back(pages);
  }
}

void KvCache::copy_page(Ops& ops, int32_t from, int32_t to) const {
  for (const PageArray& array : arrays_)
    ops.copy_bytes(array.data + from * array.page_bytes, array.data + to * array.page_bytes,
                   static_cast<size_t>(array.page_bytes));
}

void download_page(const RankCache& rank, int32_t page, std::byte* host) {
  for (const PageArray& array : rank.cache->arrays()) {
    const auto bytes = static_cast<size_t>(array.page_bytes);
    const std::byte* from = array.data + page * array.page_bytes;
    if (rank.ops->memory().is_host())
      std::memcpy(host, from, bytes);
    else
      rank.ops->download(from, host, bytes);
    host += bytes;
  }
}

void upload_page(const RankCache& rank, const std::byte* host, int32_t page) {
  for (const PageArray& array : rank.cache->arrays()) {
    const auto bytes = static_cast<size_t>(array.page_bytes);
    std::byte* to = array.data + page * array.page_bytes;
    if (rank.ops->memory().is_host())
      std::memcpy(to, host, bytes);
    else
      rank.ops->upload(host, to, bytes);
    host += bytes;
  }
}

}  // namespace guildhall
