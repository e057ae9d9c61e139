#include "deploy/programs/config_command.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"
#include "deploy/programs/balance_settings.h"
#include "deploy/programs/model_files.h"
#include "deploy/programs/other_ranks.h"
#include "deploy/programs/plan_memory.h"
#include "deploy/programs/settings.h"
#include "deploy/programs/spill_check.h"
#include "experts/expert_loader.h"
#include "kernels/make_ops.h"
#include "proto/config_yaml.h"
#include "router/placement.h"

namespace guildhall {
namespace {

Result<void> check_workers(const config::Config& config, const ModelSpec& spec) {
  const Placement placement = even_split(spec, config.experts().workers_size(), 1);
  for (int i = 0; i < config.experts().workers_size(); ++i) {
    const config::Worker& worker = config.experts().workers(i);
    const ExpertsOfLayer experts = placement.experts_of(i);
    const bool offloads = offload_mode(config) != OffloadMode::none;
    const Result<void> fits = offloads ? check_offload_memory(spec, worker.memory_bytes())
                                       : check_memory(spec, experts, worker.memory_bytes());
    if (fits.has_error())
      return Status{fits.error().code, fmt::format("worker {}: {}", worker.name(), fits.error().message)};
    int64_t count = 0;
    for (const auto& layer : experts) count += static_cast<int64_t>(layer.size());
    fmt::print("# worker {}: {} experts, {}{}\n", worker.name(), count,
               format_bytes(count * expert_bytes(spec)),
               offloads ? fmt::format("; {} of them in memory at once, the others offloaded",
                                      std::min(count, worker.memory_bytes() / expert_bytes(spec)))
                        : "");
  }
  return {};
}

Result<void> print_context(const config::Config& config, const ModelSpec& spec, int64_t model_len) {
  GH_ASSIGN(const std::string spill, describe_spill(config, spec, model_len));
  GH_ASSIGN(const ModelShard widest, widest_shard(config, spec));
  KvCacheOptions options = kv_cache_options(config, model_len);
  const std::string& dtype = config.router().kv_cache().dtype();
  if (kv_memory_rule(config).fraction) {
    fmt::print(
        "# context: {} tokens; KV cache: as measured at start (router.kv_cache.memory_fraction), of {} in "
        "pages of {}{}\n",
        model_len, dtype, format_bytes(KvCache::page_bytes(widest.spec, options)), spill);
    return {};
  }
  options.swap_bytes /= widest.num_ranks;
  GH_ASSIGN(const auto cache, KvCache::create(widest.spec, options));
  fmt::print("# context: {} tokens; KV cache: {} tokens of {} in pages of {}", model_len,
             cache->capacity_tokens(), dtype, format_bytes(cache->page_bytes()));
  if (cache->num_swap_pages() > 0)
    fmt::print("; swap: {} tokens", cache->num_swap_pages() * cache->block_size());
  fmt::print("{}", spill);
  const int replicas = config.router().dense().data_parallel();
  fmt::print("{}\n", replicas > 1 ? fmt::format(" for each of {} replicas", replicas) : "");
  return {};
}

// What each rank of tensor parallelism holds.
Result<void> print_ranks(const config::Config& config, const ModelSpec& spec, int64_t model_len) {
  GH_ASSIGN(const auto ranks, OtherRanks::divide(config, spec));
  if (ranks->num_ranks() == 1) return {};
  GH_ASSIGN(const ModelShard widest, widest_shard(config, spec));
  const KvCacheOptions cache = kv_cache_options(config, model_len);
  const int64_t num_pages = cache.memory_bytes / KvCache::page_bytes(widest.spec, cache);
  for (size_t r = 0; r < ranks->num_ranks(); ++r) {
    const ModelShard& shard = ranks->shard(r);
    GH_ASSIGN(const int64_t weights,
              DenseWeights::bytes_needed(config.model().path(), spec, shard, load_mode(config)));
    const std::string pages = kv_memory_rule(config).fraction
                                  ? "as measured"
                                  : format_bytes(num_pages * KvCache::page_bytes(shard.spec, cache));
    fmt::print("# rank {}: {}; {} attention heads, weights {}, KV cache {}\n", r, ranks->device(r),
               shard.heads.size(), format_bytes(weights), pages);
  }
  return {};
}

// What this machine has for a device that is asked for; another machine may be meant.
void print_device(std::string_view key, const std::string& device) {
  const Result<std::unique_ptr<Ops>> ops = make_ops(device, {});
  if (ops.has_error()) {
    fmt::print("# {}: {}: not on this machine: {}\n", key, device, ops.error().message);
    return;
  }
  const MemoryFigures memory = (*ops)->memory().figures();
  fmt::print("# {}: {}: {}, {} free of {}\n", key, device, (*ops)->memory().name(),
             format_bytes(memory.free_bytes), format_bytes(memory.total_bytes));
}

// What each router would use: where a list says so, its own.
void print_router_devices(const config::Config& config) {
  const auto& routers = config.routers();
  if (routers.empty() || std::ranges::any_of(routers, [](const auto& r) { return r.device().empty(); }))
    print_device("router.dense.device", config.router().dense().device());
  for (int i = 0; i < routers.size(); ++i)
    if (!routers[i].device().empty())
      print_device(fmt::format("routers[{}].device ({})", i, routers[i].name()), routers[i].device());
}

// What the links' slots take where UCX can use them (shared memory, RDMA).
void print_slots(const config::Config& config) {
  const SlotOptions slots = slot_options(config);
  if (config.transport().kind() == "loopback") return;
  const int64_t link = slot_bytes(config);
  const int num_workers = config.experts().workers_size();
  fmt::print(
      "# slots: {} of {} per link and direction; the router maps {} for {} workers, a worker {} per router\n",
      slots.num, format_bytes(static_cast<int64_t>(slots.bytes)), format_bytes(link * num_workers),
      num_workers, format_bytes(link));
}

}  // namespace

Result<void> check_config_file(const std::filesystem::path& file) {
  GH_ASSIGN(const config::Config config, read_config(file));
  fmt::print("{}", describe_config(config));
  GH_TRY(check_spill(config, file));
  GH_ASSIGN(const ModelSpec spec, read_spec(config));
  GH_ASSIGN(const auto tokenizer, read_tokenizer(config, spec));
  GH_TRY(check_frame_size(config, spec));
  GH_ASSIGN(const int64_t model_len, max_model_len(config, spec));
  fmt::print("# model: {}, {} layers, {} experts top-{}, vocabulary {}\n", spec.model_type, spec.num_layers,
             spec.moe.num_experts, spec.moe.top_k, tokenizer->vocab_size());
  GH_TRY(print_context(config, spec, model_len));
  GH_TRY(print_ranks(config, spec, model_len));
  print_router_devices(config);
  print_device("experts.device", config.experts().device());
  for (const config::Worker& worker : config.experts().workers())
    if (worker.device() != config.experts().device())
      print_device(device_key(config, worker), worker.device());
  print_slots(config);
  for (const std::string& line : describe_balancing(config, spec)) fmt::print("# balance: {}\n", line);
  return check_workers(config, spec);
}

}  // namespace guildhall
