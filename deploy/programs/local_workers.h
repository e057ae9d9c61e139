// local_workers.h: expert workers inside the router's process (transport.kind: loopback). The engine thread
// runs them while it waits for their answers, so they take no thread of their own beside their compute team.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "experts/worker.h"
#include "proto/config.pb.h"
#include "router/engine.h"
#include "router/offload_sums.h"
#include "router/placement.h"
#include "router/status_board.h"
#include "transport/loopback.h"

namespace guildhall {

class LocalWorkers {
 public:
  // Both are borrowed.
  static Result<std::unique_ptr<LocalWorkers>> make(const config::Config& config, const ModelSpec& spec,
                                                    LoopbackFabric& fabric);

  // Loads every worker's experts; blocks. Progress shows in status().
  Result<void> load(const Placement& placement);
  // Instead: its experts, in the memory where they are; of offloaded ones, those held: each of the replicas
  // has its own in memory, in its part of experts.workers.memory.
  Result<void> share(const LocalWorkers& loaded);
  void cancel_load();  // any thread
  // Joins workers and engine, which learns here what they hold. The router's own end has `router_address`.
  void attach(Engine& engine, const std::string& router_address);
  // One turn of every worker, on the engine thread; whether there was work.
  bool pump();

  std::vector<WorkerStatus> status() const;
  std::optional<OffloadSums> offload(size_t worker) const;  // none: nothing is offloaded, or not yet

 private:
  LocalWorkers(const config::Config& config, const ModelSpec& spec) : config_(config), spec_(spec) {}

  struct Member;
  Result<void> load(Member& member);
  void set_loaded(Member& member, std::shared_ptr<const ExpertStore> store);
  struct Member {
    std::string name;
    int64_t memory_limit = 0;
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Worker> worker;
    std::unique_ptr<LoadProgress> progress;
    std::shared_ptr<const ExpertStore> store;  // set under mutex_
    bool is_loaded = false;                    // likewise
    Holdings holdings;                         // what is in it
  };
  const config::Config& config_;
  const ModelSpec& spec_;
  std::vector<Member> members_;
  mutable std::mutex mutex_;
};

}  // namespace guildhall
