#include "deploy/programs/kv_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/log.h"
#include "base/units.h"
#include "transport/loopback.h"

namespace guildhall {

Result<int64_t> kv_memory(const KvMemoryRule& rule, const std::string& device, int64_t total_bytes,
                          int64_t used_bytes) {
  const auto part_of_all = [&](double part) {
    return static_cast<int64_t>(part * static_cast<double>(total_bytes));
  };
  const int64_t margin = part_of_all(rule.margin);
  const int64_t usable = total_bytes - used_bytes - margin;
  const int64_t wanted =
      rule.fraction ? std::min(usable, part_of_all(*rule.fraction) - used_bytes) : rule.memory_bytes;
  if (wanted > 0 && wanted <= usable) {
    log_info("kv_memory", "device=\"{}\" total=\"{}\" in_use=\"{}\" margin=\"{}\" cache=\"{}\"", device,
             format_bytes(total_bytes), format_bytes(used_bytes), format_bytes(margin), format_bytes(wanted));
    return wanted;
  }
  const std::string asked = rule.fraction
                                ? fmt::format("router.kv_cache.memory_fraction: {}", *rule.fraction)
                                : fmt::format("router.kv_cache.memory: {}", format_bytes(rule.memory_bytes));
  return Status{
      Code::resource_exhausted,
      fmt::format("{}: {} has {}; {} are in use with the weights and a step's workspace, and {} stay "
                  "free (router.kv_cache.memory_margin), which leaves {} for the cache",
                  asked, device, format_bytes(total_bytes), format_bytes(used_bytes), format_bytes(margin),
                  format_bytes(std::max<int64_t>(0, usable)))};
}

Result<int64_t> measure_peak(const ModelShard& shard, const DenseWeights& weights, Ops& ops,
                             const RehearsalOptions& options) {
  const ModelSpec& spec = shard.spec;
  const int64_t tokens = std::max(options.max_tokens, options.block_size);
  KvCacheOptions cache_options{.block_size = options.block_size,
                               .dtype = options.kv_dtype,
                               .max_model_len = tokens,
                               .max_tokens = tokens};
  const int64_t page_bytes = KvCache::page_bytes(spec, cache_options);
  cache_options.memory_bytes = (tokens / options.block_size + 1) * page_bytes;
  GH_ASSIGN(const std::unique_ptr<KvCache> cache, KvCache::create(spec, cache_options, ops.memory()));
  LoopbackFabric nobody;
  const std::unique_ptr<Exchange> end = nobody.make_end("rehearsal");
  Dispatcher dispatcher({.experts = expert_grid(spec),
                         .num_workers = std::max<int64_t>(1, std::ssize(options.codecs_w)),
                         .codecs_w = options.codecs_w,
                         .hidden = spec.hidden,
                         .top_k = spec.moe.top_k,
                         .max_tokens = options.max_tokens,
                         .team = &ops.team()},
                        *end);
  StepClock clock;
  // Its tables are those that the engine's will have: what the device keeps of them serves both.
  Forward forward(spec, weights, *cache, shard.rank == 0 ? &dispatcher : nullptr, ops, clock,
                  options.max_tokens, options.max_model_len, {.shard = &shard});
  forward.rehearse(options.max_sequences);
  const MemoryFigures memory = ops.memory().figures();
  return memory.total_bytes - memory.free_bytes - cache->num_pages() * page_bytes;
}

}  // namespace guildhall
