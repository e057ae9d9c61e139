// local_workers.h: expert workers inside the router's process (transport.kind: loopback). The engine thread
// runs them while it waits for their answers, so they take no thread of their own beside their compute team.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "experts/worker.h"
#include "proto/config.pb.h"
#include "router/engine.h"
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
  void share(const LocalWorkers& loaded);  // instead: its experts, in the memory where they are
  void cancel_load();                      // any thread
  // Joins workers and engine, which learns here what they hold. The router's own end has `router_address`.
  void attach(Engine& engine, const std::string& router_address);
  // One turn of every worker, on the engine thread; whether there was work.
  bool pump();

  std::vector<WorkerStatus> status() const;

 private:
  LocalWorkers(const config::Config& config, const ModelSpec& spec) : config_(config), spec_(spec) {}

  struct Member {
    std::string name;
    int64_t memory_limit = 0;
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Worker> worker;
    std::unique_ptr<LoadProgress> progress;
    std::shared_ptr<const ExpertStore> store;  // set under mutex_
    Holdings holdings;                         // what is in it
  };
  const config::Config& config_;
  const ModelSpec& spec_;
  std::vector<Member> members_;
  mutable std::mutex mutex_;
};

}  // namespace guildhall
