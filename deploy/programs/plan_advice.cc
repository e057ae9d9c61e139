#include "deploy/programs/plan_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/units.h"
#include "deploy/programs/settings.h"
#include "experts/cold_experts.h"

namespace guildhall {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kSharedOut = 8;  // one redundant expert for so many, as DeepSeek-V3 was served (32 for 256)

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t whole_mib(int64_t bytes) { return bytes / kMiB * kMiB; }

bool knows_memory(const WorkerPlan& worker) { return worker.usable_bytes.has_value(); }

// As far as is known the one that holds fewest experts; null: no limit is known.
const WorkerPlan* smallest(const ClusterPlan& plan) {
  const WorkerPlan* found = nullptr;
  for (const WorkerPlan& worker : plan.workers)
    if (knows_memory(worker) && (found == nullptr || *worker.usable_bytes < *found->usable_bytes))
      found = &worker;
  return found;
}

std::string experts_of(int64_t count) { return fmt::format("{} expert{}", count, count == 1 ? "" : "s"); }

void advise_workers(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan,
                    PlanAdvice& advice) {
  const int64_t experts = spec.moe.num_experts;
  const int64_t redundant = config.balance().redundant_experts();
  const WorkerPlan* least = smallest(plan);
  advice.redundant_fit = std::max<int64_t>(0, plan.most_slots() - experts);
  for (const WorkerPlan& worker : plan.workers) advice.resident += std::min(worker.share, worker.most_slots);
  advice.resident_share = static_cast<double>(advice.resident) / static_cast<double>(experts);
  if (least == nullptr) {
    advice.lines.push_back(
        "nothing is known of the workers' memory: give --worker-memory or experts.workers.memory");
    return;
  }
  const std::string of_one =
      fmt::format("{} leaves {} for experts and holds {} of each of {} layers", least->name,
                  format_bytes(*least->usable_bytes), experts_of(least->most_slots), plan.num_moe_layers);
  if (least->most_slots > 0) {
    advice.workers_needed = ceil_div(experts, least->most_slots);
    advice.workers_for_redundant = ceil_div(experts + redundant, least->most_slots);
  }
  if (advice.resident == experts) {
    advice.lines.push_back(
        fmt::format("{}; redundant experts that fit: {} of each layer", of_one, advice.redundant_fit));
  } else if (least->most_slots == 0) {
    advice.lines.push_back(fmt::format("{}: one of each takes {}", of_one,
                                       format_bytes(plan.num_moe_layers * plan.one_expert_bytes)));
  } else {
    advice.lines.push_back(fmt::format("{}: {} such workers hold all{}", of_one, advice.workers_needed,
                                       redundant > 0 ? fmt::format(", {} with the {} redundant ones",
                                                                   advice.workers_for_redundant, redundant)
                                                     : ""));
  }
}

// The section as it would work; empty where a worker's memory has no room for what offloading needs at least.
std::string offload_yaml(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan) {
  std::string yaml = "experts:\n  offload: {mode: disk}\n  workers:\n";
  for (size_t w = 0; w < plan.workers.size(); ++w) {
    const WorkerPlan& worker = knows_memory(plan.workers[w]) ? plan.workers[w] : *smallest(plan);
    const int64_t usable = *worker.usable_bytes, bytes = usable < kMiB ? usable : whole_mib(usable);
    if (check_offload_memory(spec, bytes).has_error()) return {};
    const std::string& address = config.experts().workers(static_cast<int>(w)).address();
    yaml += fmt::format("    - {{name: {}, {}memory: {}}}\n", plan.workers[w].name,
                        address.empty() ? "" : fmt::format("address: \"{}\", ", address),
                        bytes < kMiB ? fmt::format("{}", bytes) : fmt::format("{}MiB", bytes / kMiB));
  }
  return yaml;
}

void advise_offload(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan,
                    PlanAdvice& advice) {
  const int64_t experts = spec.moe.num_experts;
  if (advice.resident >= experts) return;
  const bool offloads = offload_mode(config) != OffloadMode::none;
  advice.lines.push_back(fmt::format(
      "{} offloaded: {} of {} of each layer stay in the workers' memory ({:.1f}%), "
      "the others ({}) are "
      "read from the workers' disks or host memory when tokens choose them",
      offloads ? "experts are" : "or experts are", advice.resident, experts, 100 * advice.resident_share,
      format_bytes((experts - advice.resident) * plan.num_moe_layers * plan.one_expert_bytes)));
  if (!offloads) advice.offload_yaml = offload_yaml(config, spec, plan);
}

void advise_context(const ModelSpec& spec, const ClusterPlan& plan, PlanAdvice& advice) {
  for (const RouterPlan& router : plan.routers) {
    if (!router.kv_room_bytes) continue;
    const int64_t room = *router.kv_room_bytes / router.num_replicas;
    const int64_t tokens = room / router.token_bytes;
    if (tokens == 0) {
      advice.lines.push_back(fmt::format(
          "{}: beside everything else there is no memory for a KV cache: more memory, or more GPUs with a "
          "part of the dense weights each (router.dense.tensor_parallel)",
          router.name));
      continue;
    }
    const int64_t context = std::min(tokens, spec.max_position);
    advice.largest_context =
        advice.largest_context == 0 ? context : std::min(advice.largest_context, context);
    advice.lines.push_back(
        fmt::format("{}: room for {} of KV cache{}: {} tokens at {} each; largest context: {}", router.name,
                    format_bytes(room), router.num_replicas > 1 ? " for each replica" : "", tokens,
                    format_bytes(router.token_bytes), context));
  }
}

}  // namespace

PlanAdvice advise(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan) {
  PlanAdvice advice;
  if (plan.num_moe_layers > 0) {
    advise_workers(config, spec, plan, advice);
    advise_offload(config, spec, plan, advice);
  }
  advise_context(spec, plan, advice);
  return advice;
}

void set_num_workers(config::Config& config, int count) {
  auto& workers = *config.mutable_experts()->mutable_workers();
  while (workers.size() > count) workers.RemoveLast();
  std::set<std::string> names, addresses;
  for (const config::Worker& worker : workers)
    names.insert(worker.name()), addresses.insert(worker.address());
  for (int i = workers.size(), made = i; i < count; ++made) {
    const std::string name = fmt::format("w{}", made);
    const std::string host = fmt::format("10.0.{}.{}", 1 + made / 250, 1 + made % 250);
    const std::string address = host + ":7000";
    if (names.contains(name) || addresses.contains(address)) continue;
    config::Worker worker = workers.empty() ? config::Worker() : workers[workers.size() - 1];
    worker.set_name(name), worker.set_host(host), worker.set_address(address);
    *workers.Add() = std::move(worker);
    ++i;
  }
}

config::Config suggest_workers(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan) {
  config::Config out = config;
  if (smallest(plan) == nullptr) return out;
  for (size_t w = 0; w < plan.workers.size(); ++w)
    if (knows_memory(plan.workers[w]))
      out.mutable_experts()
          ->mutable_workers(static_cast<int>(w))
          ->set_memory_bytes(std::max(kMiB, whole_mib(*plan.workers[w].usable_bytes)));
  config::Balance& balance = *out.mutable_balance();
  const int64_t spare = std::max<int64_t>(0, plan.most_slots() - spec.moe.num_experts);
  const int64_t wanted = balance.redundant_experts() > 0 ? balance.redundant_experts()
                                                         : ceil_div(spec.moe.num_experts, kSharedOut);
  balance.set_redundant_experts(static_cast<int32_t>(std::min(spare, wanted)));
  if (balance.redundant_experts() > 0 && balance.policy() == "static") balance.set_policy("incremental");
  return out;
}

config::Config suggest_cache(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan,
                             const PlannedDevices& devices) {
  int64_t room = INT64_MAX, token_bytes = 1;  // of one replica
  bool all_gpus = true;
  for (size_t r = 0; r < plan.routers.size(); ++r) {
    const RouterPlan& router = plan.routers[r];
    if (!router.kv_room_bytes) return config;
    room = std::min(room, whole_mib(*router.kv_room_bytes / router.num_replicas));
    token_bytes = std::max(token_bytes, router.token_bytes);
    all_gpus = all_gpus && devices.router_r[r].is_gpu;
  }
  config::Config out = config;
  config::KvCache& cache = *out.mutable_router()->mutable_kv_cache();
  const int64_t asked = out.model().max_model_len() > 0 ? out.model().max_model_len() : spec.max_position;
  const int64_t page_bytes = token_bytes * cache.block_size();
  const int64_t context = std::min(asked, room / page_bytes * cache.block_size());
  if (context == 0) return out;
  out.mutable_model()->set_max_model_len(context);
  if (all_gpus) {
    cache.set_memory_fraction_millionths(1'000'000 - cache.memory_margin_millionths());
    return out;
  }
  const int64_t most_pages = ceil_div(context, cache.block_size()) * out.router().batching().max_sequences();
  const int64_t bytes = std::min(room, ceil_div(most_pages * page_bytes, kMiB) * kMiB);
  cache.set_memory_bytes(bytes * out.router().dense().data_parallel());
  return out;
}

}  // namespace guildhall
