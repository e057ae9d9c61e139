#include "deploy/programs/local_workers.h"

#include <algorithm>

#include "deploy/programs/settings.h"
#include "experts/expert_loader.h"

namespace guildhall {
namespace {

// Replicas share experts that are all in memory; of offloaded ones, each has its own there.
int64_t memory_limit(const config::Config& config, const config::Worker& worker) {
  if (offload_mode(config) == OffloadMode::none) return worker.memory_bytes();
  return worker.memory_bytes() / std::max(1, config.router().dense().data_parallel());
}

}  // namespace

Result<std::unique_ptr<LocalWorkers>> LocalWorkers::make(const config::Config& config, const ModelSpec& spec,
                                                         LoopbackFabric& fabric) {
  std::unique_ptr<LocalWorkers> workers(new LocalWorkers(config, spec));
  for (const config::Worker& w : config.experts().workers()) {
    GH_ASSIGN(std::unique_ptr<Ops> ops,
              open_device(device_key(config, w), w.device(), team_options(config, w.threads())));
    Member member{
        .name = w.name(), .memory_limit = memory_limit(config, w), .exchange = fabric.make_end(w.name())};
    member.worker = std::make_unique<Worker>(spec, *member.exchange, std::move(ops));
    member.progress = std::make_unique<LoadProgress>();
    workers->members_.push_back(std::move(member));
  }
  return workers;
}

Result<void> LocalWorkers::load(const Placement& placement) {
  for (size_t i = 0; i < members_.size(); ++i) {
    members_[i].holdings = {.version = placement.version,
                            .experts_l = placement.experts_of(static_cast<int32_t>(i)),
                            .offloads = offload_mode(config_) != OffloadMode::none};
    GH_TRY(load(members_[i]));
  }
  return {};
}

Result<void> LocalWorkers::load(Member& member) {
  const ExpertLoaderOptions options{
      config_.model().path(),   load_mode(config_),
      member.memory_limit,      part(config_.experts().memory_margin_millionths()),
      &member.worker->memory(), offload_mode(config_)};
  GH_ASSIGN(const LoadedExperts loaded,
            load_experts(options, spec_, member.holdings.experts_l, *member.progress));
  if (const auto* cold = std::get_if<std::shared_ptr<ColdExperts>>(&loaded)) {
    member.worker->set_offloaded(*cold, member.holdings.experts_l);
    set_loaded(member, nullptr);
  } else {
    const auto& store = std::get<std::shared_ptr<const ExpertStore>>(loaded);
    member.worker->set_store(store);
    set_loaded(member, store);
  }
  return {};
}

Result<void> LocalWorkers::share(const LocalWorkers& loaded) {
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& other = loaded.members_[i];
    members_[i].holdings = other.holdings;
    if (!other.store) {
      GH_TRY(load(members_[i]));
      continue;
    }
    members_[i].worker->set_store(other.store);
    set_loaded(members_[i], other.store);
  }
  return {};
}

void LocalWorkers::set_loaded(Member& member, std::shared_ptr<const ExpertStore> store) {
  std::lock_guard lock(mutex_);
  member.store = std::move(store);
  member.is_loaded = true;
}

void LocalWorkers::cancel_load() {
  for (Member& member : members_) member.progress->cancel = true;
}

void LocalWorkers::attach(Engine& engine, const std::string& router_address) {
  for (size_t i = 0; i < members_.size(); ++i) {
    const uint64_t generation = i + 1;
    members_[i].worker->attach_router(config_.router().name(), router_address, generation,
                                      [](Result<void>) {});
    engine.attach_worker(static_cast<int32_t>(i), members_[i].name, members_[i].exchange->local_address(),
                         generation, members_[i].holdings, /*taken=*/{});
  }
}

bool LocalWorkers::pump() {
  bool worked = false;
  for (Member& member : members_) worked |= member.worker->poll();
  return worked;
}

std::vector<WorkerStatus> LocalWorkers::status() const {
  std::lock_guard lock(mutex_);
  std::vector<WorkerStatus> all;
  for (const Member& m : members_) {
    WorkerStatus status{.name = m.name,
                        .address = "in this process",
                        .state = m.is_loaded ? "ready" : "loading",
                        .bytes_done = m.progress->bytes_done,
                        .bytes_total = m.progress->bytes_total,
                        .num_experts = m.is_loaded ? count_of(m.holdings.experts_l) : 0,
                        .resident_bytes = m.store ? m.store->bytes() : 0,
                        .transport = "loopback"};
    if (const auto offload = m.worker->counters().offload)
      status.resident_bytes = static_cast<int64_t>(offload->resident_bytes);
    all.push_back(std::move(status));
  }
  return all;
}

std::optional<OffloadSums> LocalWorkers::offload(size_t worker) const {
  const std::optional<ResidentSums> sums = members_[worker].worker->counters().offload;
  if (!sums) return std::nullopt;
  return OffloadSums{.hits = static_cast<int64_t>(sums->hits),
                     .waits = static_cast<int64_t>(sums->waits),
                     .wait_ns = static_cast<int64_t>(sums->wait_ns),
                     .loaded_bytes = static_cast<int64_t>(sums->loaded_bytes),
                     .prefetched_used = static_cast<int64_t>(sums->prefetched_used),
                     .prefetched_unused = static_cast<int64_t>(sums->prefetched_unused),
                     .evictions = static_cast<int64_t>(sums->evictions),
                     .load_errors = static_cast<int64_t>(sums->load_errors),
                     .resident_experts = static_cast<int64_t>(sums->resident_experts),
                     .resident_bytes = static_cast<int64_t>(sums->resident_bytes)};
}

}  // namespace guildhall
