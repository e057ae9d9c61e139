#include "deploy/programs/other_ranks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/affinity.h"
#include "deploy/programs/settings.h"
#include "kernels/make_ops.h"
#include "router/shared_memory_collective.h"
#if defined(GUILDHALL_HAS_NCCL)
#include "router/nccl_collective.h"
#endif

namespace guildhall {
namespace {

#if defined(GUILDHALL_HAS_NCCL)
constexpr bool kGpusMeet = true;
Result<std::unique_ptr<CollectiveGroup>> make_gpu_group(const std::vector<Ops*>& ops_r,
                                                        std::chrono::nanoseconds limit) {
  return NcclGroup::make(ops_r, limit);
}
#else
constexpr bool kGpusMeet = false;
Result<std::unique_ptr<CollectiveGroup>> make_gpu_group(const std::vector<Ops*>& ops_r,
                                                        std::chrono::nanoseconds) {
  return Status{
      Code::unsupported,
      fmt::format("router.dense.tensor_parallel: {} ranks on GPUs need NCCL, which this build was made "
                  "without; use 1, or router.dense.device: cpu",
                  ops_r.size())};
}
#endif

int num_ranks_of(const config::Config& config) { return config.router().dense().tensor_parallel(); }

}  // namespace

Result<ModelShard> widest_shard(const config::Config& config, const ModelSpec& spec) {
  GH_ASSIGN(ModelShard widest, make_shard(spec, 0, num_ranks_of(config)));
  for (int r = 1; r < num_ranks_of(config); ++r) {
    GH_ASSIGN(ModelShard shard, make_shard(spec, r, num_ranks_of(config)));
    if (kv_elements_per_token_layer(shard.spec) > kv_elements_per_token_layer(widest.spec))
      widest = std::move(shard);
  }
  return widest;
}

Result<std::unique_ptr<OtherRanks>> OtherRanks::divide(const config::Config& config, const ModelSpec& spec) {
  std::unique_ptr<OtherRanks> ranks(new OtherRanks());
  const int n = num_ranks_of(config);
  for (int r = 0; r < n; ++r) {
    GH_ASSIGN(ranks->shard_r_.emplace_back(), make_shard(spec, r, n));
  }
  ranks->device_r_ = rank_devices(config.router().dense().device(), n, kGpusMeet);
  ranks->cores_r_ = rank_cores(config);
  return ranks;
}

Result<void> OtherRanks::open(const config::Config& config) {
  const TeamOptions team = dense_team_options(config);  // its share of all cores
  for (size_t r = 1; r < num_ranks(); ++r) {
    const OnCores here(cores(r));
    TensorRanks::Rank rank;
    GH_ASSIGN(rank.ops, open_device("router.dense.device", device(r), team));
    rank.on_thread = [cores = cores(r)] { stay_on(cores); };
    others_.push_back(std::move(rank));
  }
  return {};
}

Result<void> OtherRanks::load(const config::Config& config, const ModelSpec& spec, LoadProgress& progress) {
  for (size_t i = 0; i < others_.size(); ++i) {
    GH_ASSIGN(others_[i].weights, DenseWeights::load(config.model().path(), spec, shard(i + 1),
                                                     load_mode(config), progress, others_[i].ops->memory()));
  }
  return {};
}

Result<int64_t> OtherRanks::measure(const config::Config& config, const KvCacheOptions& options,
                                    const FirstRank& first) {
  const config::Batching& batching = config.router().batching();
  const int64_t num_replicas = config.router().dense().data_parallel();
  int64_t num_pages = INT64_MAX, widest_page = 0;
  for (size_t r = 0; r < num_ranks(); ++r) {
    Ops& ops = r == 0 ? first.ops : *others_[r - 1].ops;
    const DenseWeights& weights = r == 0 ? first.weights : *others_[r - 1].weights;
    const MemoryFigures before = ops.memory().figures();
    GH_ASSIGN(const int64_t peak_bytes, measure_peak(shard(r), weights, ops,
                                                     {.max_tokens = batching.max_batched_tokens(),
                                                      .max_sequences = batching.max_sequences(),
                                                      .max_model_len = options.max_model_len,
                                                      .block_size = options.block_size,
                                                      .kv_dtype = options.dtype,
                                                      .codecs_w = worker_codecs(config)}));
    const int64_t step_bytes = std::max<int64_t>(0, peak_bytes - (before.total_bytes - before.free_bytes));
    GH_ASSIGN(const int64_t bytes, kv_memory(kv_memory_rule(config), ops.memory().name(), before.total_bytes,
                                             peak_bytes + (num_replicas - 1) * step_bytes));
    const int64_t page_bytes = KvCache::page_bytes(shard(r).spec, options);
    num_pages = std::min(num_pages, bytes / num_replicas / page_bytes);
    widest_page = std::max(widest_page, page_bytes);
  }
  return num_pages * widest_page;
}

std::vector<Ops*> OtherRanks::all_ops(Ops& first) const {
  std::vector<Ops*> ops_r{&first};
  for (const TensorRanks::Rank& rank : others_) ops_r.push_back(rank.ops.get());
  return ops_r;
}

Result<std::unique_ptr<KvCache>> OtherRanks::make_caches(const KvCacheOptions& options, Ops& first) {
  GH_ASSIGN(auto cache_r, make_rank_caches(shard_r_, options, all_ops(first)));
  for (size_t i = 0; i < others_.size(); ++i) others_[i].cache = std::move(cache_r[i + 1]);
  return std::move(cache_r[0]);
}

Result<std::unique_ptr<TensorRanks>> OtherRanks::join(const config::Config& config, Ops& first) {
  if (num_ranks() == 1) return nullptr;
  const int64_t spin_ns = dense_team_options(config).spin_ns;
  std::unique_ptr<CollectiveGroup> group;
  if (first.memory().is_host()) {
    group = std::make_unique<SharedMemoryGroup>(all_ops(first), spin_ns);
  } else {
    const std::chrono::microseconds limit(config.transport().startup_timeout_us());
    GH_ASSIGN(group, make_gpu_group(all_ops(first), limit));
  }
  return std::make_unique<TensorRanks>(shard_r_, std::move(others_), std::move(group), spin_ns);
}

}  // namespace guildhall
