#include "deploy/programs/plan_memory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/units.h"
#include "deploy/programs/other_ranks.h"
#include "deploy/programs/plan_workspace.h"
#include "deploy/programs/routers.h"
#include "deploy/programs/settings.h"
#include "experts/expert_loader.h"
#include "router/balance/workers.h"
#include "router/placement.h"

namespace guildhall {
namespace {

// A GPU that may be elsewhere: weights are counted for its kind, nothing is put there.
class AbsentGpu final : public DeviceMemory {
 public:
  std::string name() const override { return "a GPU"; }
  bool is_host() const override { return false; }
  Result<MemoryBlock> allocate(int64_t) override { return absent(); }
  Result<MemoryBlock> allocate_pinned(int64_t) override { return absent(); }
  Result<void> upload(std::span<const std::byte>, std::byte*) override { return absent(); }
  MemoryFigures figures() const override { return {}; }

 private:
  static Status absent() { return {Code::internal, "memory was asked of a GPU that is only planned"}; }
};

int64_t part_of(double part, int64_t bytes) {
  return static_cast<int64_t>(part * static_cast<double>(bytes));
}

StepShape step_shape(const config::Config& config, const config::Worker& worker) {
  return {.max_tokens = config.router().batching().max_batched_tokens(),
          .codecs = row_codecs(worker),
          .combine = combine_mode(config)};
}

class Planner {
 public:
  Planner(const config::Config& config, const ModelSpec& spec, const PlannedDevices& devices)
      : config_(config), spec_(spec), devices_(devices) {}

  Result<ClusterPlan> run() {
    plan_.num_moe_layers = std::ranges::count(spec_.is_moe_layer, true);
    plan_.one_expert_bytes = plan_.num_moe_layers > 0 ? expert_bytes(spec_) : 0;
    plan_.all_experts_bytes = plan_.num_moe_layers * spec_.moe.num_experts * plan_.one_expert_bytes;
    const std::vector<RouterOfFile> routers = routers_of(config_);
    num_links_ = static_cast<int64_t>(routers.size()) * config_.router().dense().data_parallel();
    for (size_t r = 0; r < routers.size(); ++r) {
      GH_ASSIGN(const config::Config own, config_of_router(config_, routers[r].settings.name()));
      GH_TRY(plan_router(own, devices_.router_r[r]));
    }
    plan_workers(static_cast<int64_t>(routers.size()));
    check_pools();
    find_kv_rooms();
    for (const auto& [why, processes] : problems_)
      plan_.problems.push_back(
          fmt::format("{}{}{}", list_names(processes), processes.empty() ? "" : ": ", why));
    return std::move(plan_);
  }

 private:
  struct Rank {
    ModelShard shard;
    int64_t weights_bytes = 0, workspace_bytes = 0;
  };

  // The pool of `name`; without one a pool of this process's own.
  size_t pool(const std::string& process, const std::string& name, int64_t limit_bytes,
              const std::string& from) {
    const std::string key = name.empty() ? process : name;
    for (size_t i = 0; i < plan_.pools.size(); ++i)
      if (plan_.pools[i].name == key) return i;
    plan_.pools.push_back({.name = key, .limit_bytes = limit_bytes, .from = from});
    return plan_.pools.size() - 1;
  }

  size_t add_need(const std::string& process, const PlannedDevice& device, std::vector<MemoryItem> items) {
    const std::string where = device.is_gpu ? "GPU" : "host";
    std::erase_if(items, [](const MemoryItem& item) { return item.bytes == 0; });
    const size_t pool_idx = pool(process + " " + where, device.pool, device.total_bytes, device.from);
    plan_.needs.push_back({process, where, pool_idx, std::move(items)});
    return plan_.needs.size() - 1;
  }

  // What a process whose device is a GPU takes of its host beside.
  void add_host_need(const std::string& process, const PlannedDevice& device, std::vector<MemoryItem> items) {
    const std::string name = device.host_bytes > 0 ? "this host" : "";
    add_need(process, {.total_bytes = device.host_bytes, .from = name, .pool = name}, std::move(items));
  }

  Result<std::vector<Rank>> ranks(const config::Config& own, bool is_gpu) {
    AbsentGpu gpu;
    DeviceMemory& device = is_gpu ? static_cast<DeviceMemory&>(gpu) : host_memory();
    const int num_ranks = own.router().dense().tensor_parallel();
    std::vector<Rank> ranks;
    for (int r = 0; r < num_ranks; ++r) {
      GH_ASSIGN(ModelShard shard, make_shard(spec_, r, num_ranks));
      int64_t& bytes = weights_of_[{r, is_gpu}];  // routers differ in devices only
      if (bytes == 0) {
        GH_ASSIGN(bytes,
                  DenseWeights::bytes_needed(own.model().path(), spec_, shard, load_mode(own), device));
      }
      const int64_t workspace = router_workspace_bytes(shard, step_shape(own, own.experts().workers(0)));
      ranks.push_back({std::move(shard), bytes, workspace});
    }
    return ranks;
  }

  // Bytes of one replica's cache on the rank where they are most; none: measured at start.
  Result<std::optional<int64_t>> kv_bytes(const config::Config& own, const KvCacheOptions& cache,
                                          const PlannedDevice& device, const std::vector<Rank>& ranks) {
    const std::string& name = own.router().name();
    const KvMemoryRule rule = kv_memory_rule(own);
    if (!rule.fraction) return cache.memory_bytes;
    if (!device.is_gpu)
      return Status{
          Code::invalid_argument,
          fmt::format("router.kv_cache.memory_fraction: it is for GPUs, and {} is planned for a CPU; "
                      "give router.kv_cache.memory instead",
                      name)};
    if (device.total_bytes == 0) return std::optional<int64_t>();
    const int64_t replicas = own.router().dense().data_parallel();
    int64_t num_pages = INT64_MAX, widest_page = 0;  // as OtherRanks::measure, which has measured
    for (const Rank& rank : ranks) {
      const Result<int64_t> bytes = kv_memory(rule, device.from, device.total_bytes,
                                              rank.weights_bytes + replicas * rank.workspace_bytes);
      if (bytes.has_error()) problem(name, bytes.error().message);
      const int64_t page_bytes = KvCache::page_bytes(rank.shard.spec, cache);
      num_pages = std::min(num_pages, bytes ? *bytes / replicas / page_bytes : 0);
      widest_page = std::max(widest_page, page_bytes);
    }
    return num_pages * widest_page;
  }

  // Of several processes with one problem, it is told once. No process: of the whole.
  void problem(const std::string& process, const std::string& why) {
    auto found = std::ranges::find(problems_, why, &Problem::why);
    if (found == problems_.end()) {
      problems_.push_back({why, {}});
      found = problems_.end() - 1;
    }
    if (!process.empty()) found->processes.push_back(process);
  }

  // The pages of each replica's cache: as many on every rank.
  int64_t kv_pages(const config::Config& own, const ModelShard& widest, KvCacheOptions cache, int64_t bytes) {
    cache.memory_bytes = bytes;
    const Result<int64_t> pages = KvCache::count_pages(widest.spec, cache);
    if (pages) return *pages;
    if (bytes > 0) problem(own.router().name(), pages.error().message);
    return bytes / KvCache::page_bytes(widest.spec, cache);
  }

  Result<void> plan_router(const config::Config& own, const PlannedDevice& device) {
    GH_TRY(check_frame_size(own, spec_));
    GH_ASSIGN(const int64_t model_len, max_model_len(own, spec_));
    GH_ASSIGN(const ModelShard widest, widest_shard(own, spec_));
    GH_ASSIGN(const std::vector<Rank> ranks, this->ranks(own, device.is_gpu));
    const KvCacheOptions cache = kv_cache_options(own, model_len);
    GH_ASSIGN(const std::optional<int64_t> bytes, kv_bytes(own, cache, device, ranks));
    const int64_t pages = bytes ? kv_pages(own, widest, cache, *bytes) : 0;

    RouterPlan router{.name = own.router().name(),
                      .num_replicas = own.router().dense().data_parallel(),
                      .num_ranks = own.router().dense().tensor_parallel(),
                      .max_model_len = model_len,
                      .token_bytes = KvCache::page_bytes(widest.spec, cache) / cache.block_size};
    if (bytes) router.capacity_tokens = pages * cache.block_size;
    for (const Rank& rank : ranks) router.weights_bytes += rank.weights_bytes;
    const std::vector<MemoryItem> of_host{
        {.what = "swapped pages", .bytes = cache.swap_bytes * router.num_replicas},
        {.what = "receive slots", .bytes = slot_bytes(own) * own.experts().workers_size()}};
    const auto kv_of = [&](const Rank& rank) {
      return router.num_replicas * pages * KvCache::page_bytes(rank.shard.spec, cache);
    };
    if (!device.is_gpu) {  // all ranks share one memory
      Rank sum{.weights_bytes = router.weights_bytes};
      int64_t kv = 0;
      for (const Rank& rank : ranks) sum.workspace_bytes += rank.workspace_bytes, kv += kv_of(rank);
      std::vector<MemoryItem> items = rank_items(sum, kv, router.num_replicas, 0);
      items.insert(items.end(), of_host.begin(), of_host.end());
      add_cache(add_need(router.name, device, std::move(items)), kv);
    } else {
      const int64_t margin = part_of(kv_memory_rule(own).margin, device.total_bytes);
      for (const Rank& rank : ranks) {
        PlannedDevice its = device;
        if (!its.pool.empty() && rank.shard.rank > 0) its.pool += fmt::format(", rank {}", rank.shard.rank);
        const std::string name =
            ranks.size() == 1 ? router.name : fmt::format("{} rank {}", router.name, rank.shard.rank);
        const int64_t kv = kv_of(rank);
        add_cache(add_need(name, its, rank_items(rank, kv, router.num_replicas, margin)), kv);
      }
      add_host_need(router.name, device, of_host);
    }
    plan_.routers.push_back(std::move(router));
    return {};
  }

  static std::vector<MemoryItem> rank_items(const Rank& rank, int64_t kv, int64_t num_replicas,
                                            int64_t margin) {
    return {{"dense weights", rank.weights_bytes},
            {"KV cache", kv},
            {"a step's workspace", num_replicas * rank.workspace_bytes, true},
            {"margin (router.kv_cache.memory_margin)", margin}};
  }

  // The caches of the router that is being planned, in a need of it.
  void add_cache(size_t need_idx, int64_t kv_bytes) {
    caches_.push_back({plan_.routers.size(), need_idx, kv_bytes});
  }

  void find_kv_rooms() {
    for (const Cache& cache : caches_) {
      const MemoryPool& pool = plan_.pools[plan_.needs[cache.need_idx].pool_idx];
      if (pool.limit_bytes == 0) continue;
      const int64_t left = std::max<int64_t>(0, pool.limit_bytes - (pool.needed_bytes - cache.bytes));
      std::optional<int64_t>& room = plan_.routers[cache.router_idx].kv_room_bytes;
      room = std::min(room.value_or(left), left);
    }
  }

  // What a worker has beside experts, and of a GPU the part that none may take.
  struct Beside {
    std::vector<MemoryItem> device, host;
  };
  Beside beside(const config::Worker& worker, const PlannedDevice& device, int64_t share,
                int64_t num_routers) const {
    const int64_t workspace = worker_workspace_bytes(spec_, step_shape(config_, worker), share, num_links_);
    const MemoryItem slots{.what = "receive slots", .bytes = slot_bytes(config_) * num_routers};
    if (!device.is_gpu) return {{{"a step's workspace", workspace, true}, slots}, {}};
    const int64_t margin = part_of(part(config_.experts().memory_margin_millionths()), device.total_bytes);
    if (workspace > margin) return {{{"a step's workspace", workspace, true}}, {slots}};
    return {{{"margin (experts.memory_margin), a step's workspace in it", margin}}, {slots}};
  }

  void plan_workers(int64_t num_routers) {
    const int num_workers = config_.experts().workers_size();
    const Placement even = even_split(spec_, num_workers, 1);
    std::vector<ExpertsOfLayer> experts_w;
    std::vector<size_t> need_w;
    for (int w = 0; w < num_workers; ++w) {
      const config::Worker& worker = config_.experts().workers(w);
      const PlannedDevice& device = devices_.worker_w[static_cast<size_t>(w)];
      WorkerPlan plan{.name = worker.name()};
      experts_w.push_back(even.experts_of(w));
      for (const auto& layer : experts_w.back())
        plan.share = std::max(plan.share, static_cast<int64_t>(layer.size()));
      Beside beside = this->beside(worker, device, plan.share, num_routers);
      need_w.push_back(add_need(worker.name(), device, std::move(beside.device)));
      if (!beside.host.empty()) add_host_need(worker.name(), device, std::move(beside.host));
      plan_.workers.push_back(std::move(plan));
    }
    find_usable(need_w);
    place_experts(need_w);
    for (int w = 0; w < num_workers; ++w) {
      const config::Worker& worker = config_.experts().workers(w);
      const Result<void> allowed =
          offloads() ? check_offload_memory(spec_, worker.memory_bytes())
                     : check_memory(spec_, experts_w[static_cast<size_t>(w)], worker.memory_bytes());
      if (allowed.has_error()) problem(worker.name(), allowed.error().message);
    }
  }

  // What each worker's memory leaves for experts; workers of one pool share it alike.
  void find_usable(const std::vector<size_t>& need_w) {
    std::vector<int64_t> taken_p(plan_.pools.size()), workers_p(plan_.pools.size());
    for (const MemoryNeed& need : plan_.needs) taken_p[need.pool_idx] += need.total_bytes();
    for (const size_t need : need_w) ++workers_p[plan_.needs[need].pool_idx];
    for (size_t w = 0; w < need_w.size(); ++w) {
      const size_t p = plan_.needs[need_w[w]].pool_idx;
      std::optional<int64_t>& usable = plan_.workers[w].usable_bytes;
      if (const int64_t asked = config_.experts().workers(static_cast<int>(w)).memory_bytes(); asked > 0)
        usable = asked;
      if (plan_.pools[p].limit_bytes == 0) continue;
      const int64_t left = std::max<int64_t>(0, (plan_.pools[p].limit_bytes - taken_p[p]) / workers_p[p]);
      usable = std::min(usable.value_or(left), left);
    }
  }

  void place_experts(const std::vector<size_t>& need_w) {
    const int64_t bytes_per_slot = plan_.num_moe_layers * plan_.one_expert_bytes;
    std::vector<WorkerInfo> infos;
    for (size_t w = 0; w < need_w.size(); ++w) {
      const config::Worker& worker = config_.experts().workers(static_cast<int>(w));
      WorkerPlan& plan = plan_.workers[w];
      infos.push_back(
          {.name = worker.name(),
           .memory_bytes = plan.usable_bytes && !offloads() ? std::max<int64_t>(1, *plan.usable_bytes) : 0,
           .speed = part(worker.speed_millionths()),
           .node = worker.host()});
      plan.most_slots = plan.usable_bytes && bytes_per_slot > 0
                            ? std::min(spec_.moe.num_experts, *plan.usable_bytes / bytes_per_slot)
                            : spec_.moe.num_experts;
      plan.slots = plan.share;
    }
    const Result<BalanceWorkers> slots = plan_slots(infos, {.num_layers = plan_.num_moe_layers,
                                                            .num_experts = spec_.moe.num_experts,
                                                            .redundant_experts = redundant(),
                                                            .expert_bytes = plan_.one_expert_bytes});
    if (slots.has_error() && plan_.num_moe_layers > 0) problem("", slots.error().message);
    const bool balances = redundant() > 0 || config_.balance().policy() != "static";
    for (size_t w = 0; w < need_w.size(); ++w) {
      WorkerPlan& plan = plan_.workers[w];
      // Routers split experts evenly at first; balancing then fills a worker's slots.
      if (slots && balances) plan.slots = std::max<int64_t>(plan.share, slots->slots_w[w]);
      std::vector<MemoryItem>& items = plan_.needs[need_w[w]].items;
      if (offloads()) {
        items.insert(items.begin(), experts_in_memory(worker_bytes(w), plan.slots * bytes_per_slot));
        continue;
      }
      const MemoryItem spare{.what = "redundant slots", .bytes = (plan.slots - plan.share) * bytes_per_slot};
      if (spare.bytes > 0) items.insert(items.begin(), spare);
      items.insert(items.begin(), {.what = "experts", .bytes = plan.share * bytes_per_slot});
    }
    if (slots && slots->slots() < spec_.moe.num_experts + redundant() && plan_.num_moe_layers > 0)
      problem("", fmt::format("balance.redundant_experts: {} asked for, {} fit", redundant(),
                              slots->slots() - spec_.moe.num_experts));
  }

  bool offloads() const { return offload_mode(config_) != OffloadMode::none; }
  int64_t worker_bytes(size_t w) const {
    return config_.experts().workers(static_cast<int>(w)).memory_bytes();
  }
  static MemoryItem experts_in_memory(int64_t limit, int64_t held) {
    return {.what = fmt::format("experts in memory, of {} held (experts.offload)", format_bytes(held)),
            .bytes = std::min(limit, held)};
  }

  int64_t redundant() const { return config_.balance().redundant_experts(); }

  void check_pools() {
    std::vector<int64_t> needs_p(plan_.pools.size());
    for (const MemoryNeed& need : plan_.needs) {
      plan_.pools[need.pool_idx].needed_bytes += need.total_bytes();
      ++needs_p[need.pool_idx];
    }
    for (size_t p = 0; p < plan_.pools.size(); ++p) {
      const MemoryPool& pool = plan_.pools[p];
      if (pool.fits()) continue;
      std::string sum;
      for (const MemoryNeed& need : plan_.needs)
        for (const MemoryItem& item : need.items)
          if (need.pool_idx == p)
            sum +=
                fmt::format("{}{}{} {}", sum.empty() ? "" : " + ", needs_p[p] > 1 ? need.process + "'s " : "",
                            item.what, format_bytes(item.bytes));
      problem(pool.name, fmt::format("{} = {}; there are {} ({})", sum, format_bytes(pool.needed_bytes),
                                     format_bytes(pool.limit_bytes), pool.from));
    }
  }

  struct Cache {
    size_t router_idx, need_idx;
    int64_t bytes;
  };
  struct Problem {
    std::string why;
    std::vector<std::string> processes;
  };
  const config::Config& config_;
  const ModelSpec& spec_;
  const PlannedDevices& devices_;
  int64_t num_links_ = 0;                               // to one worker, of all routers' replicas
  std::map<std::pair<int, bool>, int64_t> weights_of_;  // rank, on a GPU -> bytes
  std::vector<Cache> caches_;
  std::vector<Problem> problems_;
  ClusterPlan plan_;
};

}  // namespace

std::string list_names(std::span<const std::string> names) {
  constexpr size_t kMostNames = 4;
  const size_t shown = names.size() <= kMostNames ? names.size() : kMostNames - 1;
  std::string text = fmt::format("{}", fmt::join(names.first(shown), ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

int64_t MemoryNeed::total_bytes() const {
  return std::accumulate(items.begin(), items.end(), int64_t{0},
                         [](int64_t sum, const MemoryItem& item) { return sum + item.bytes; });
}

int64_t ClusterPlan::slots() const {
  return std::accumulate(workers.begin(), workers.end(), int64_t{0},
                         [](int64_t sum, const WorkerPlan& worker) { return sum + worker.slots; });
}

int64_t ClusterPlan::most_slots() const {
  return std::accumulate(workers.begin(), workers.end(), int64_t{0},
                         [](int64_t sum, const WorkerPlan& worker) { return sum + worker.most_slots; });
}

Result<ClusterPlan> plan_memory(const config::Config& config, const ModelSpec& spec,
                                const PlannedDevices& devices) {
  return Planner(config, spec, devices).run();
}

int64_t slot_bytes(const config::Config& config) {
  if (config.transport().kind() == "loopback") return 0;
  return static_cast<int64_t>(slot_options(config).link_bytes()) * config.router().dense().data_parallel();
}

}  // namespace guildhall
