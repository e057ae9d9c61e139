#include "deploy/programs/local_workers.h"

#include "deploy/programs/settings.h"
#include "experts/expert_loader.h"

namespace guildhall {

Result<std::unique_ptr<LocalWorkers>> LocalWorkers::make(const config::Config& config, const ModelSpec& spec,
                                                         LoopbackFabric& fabric) {
  std::unique_ptr<LocalWorkers> workers(new LocalWorkers(config, spec));
  for (const config::Worker& w : config.experts().workers()) {
    GH_ASSIGN(std::unique_ptr<Ops> ops,
              open_device(device_key(config, w), w.device(), team_options(config, w.threads())));
    Member member{.name = w.name(), .memory_limit = w.memory_bytes(), .exchange = fabric.make_end(w.name())};
    member.worker = std::make_unique<Worker>(spec, *member.exchange, std::move(ops));
    member.progress = std::make_unique<LoadProgress>();
    workers->members_.push_back(std::move(member));
  }
  return workers;
}

Result<void> LocalWorkers::load(const Placement& placement) {
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& member = members_[i];
    member.holdings = {placement.version, placement.experts_of(static_cast<int32_t>(i))};
    const ExpertsOfLayer& experts = member.holdings.experts_l;
    GH_TRY(check_memory(spec_, experts, member.memory_limit));
    GH_TRY(check_device_memory(spec_, experts, member.worker->memory(),
                               part(config_.experts().memory_margin_millionths())));
    GH_ASSIGN(std::shared_ptr<const ExpertStore> store,
              ExpertStore::load(config_.model().path(), spec_, load_mode(config_), experts, *member.progress,
                                member.worker->memory()));
    member.worker->set_store(store);
    std::lock_guard lock(mutex_);
    member.store = std::move(store);
  }
  return {};
}

void LocalWorkers::share(const LocalWorkers& loaded) {
  for (size_t i = 0; i < members_.size(); ++i) {
    members_[i].worker->set_store(loaded.members_[i].store);
    members_[i].holdings = loaded.members_[i].holdings;
    std::lock_guard lock(mutex_);
    members_[i].store = loaded.members_[i].store;
  }
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
  for (const Member& m : members_)
    all.push_back({.name = m.name,
                   .address = "in this process",
                   .state = m.store ? "ready" : "loading",
                   .bytes_done = m.progress->bytes_done,
                   .bytes_total = m.progress->bytes_total,
                   .num_experts = m.store ? m.store->num_experts() : 0,
                   .resident_bytes = m.store ? m.store->bytes() : 0,
                   .transport = "loopback"});
  return all;
}

}  // namespace guildhall
