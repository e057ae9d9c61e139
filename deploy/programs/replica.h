// replica.h: one replica of a router process's dense layers: cores and a device, a KV cache, an end of the
// data plane, and the engine with its thread. Weights are not its own. Main's thread makes and ends it.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "deploy/programs/local_workers.h"
#include "deploy/programs/other_ranks.h"
#include "proto/config.pb.h"
#include "router/engine.h"
#include "transport/tail_pool.h"

namespace guildhall {

class EngineReplica {
 public:
  // Opens the device. Its compute threads and the engine's stay on `cores`; empty: anywhere.
  static Result<std::unique_ptr<EngineReplica>> open(const config::Config& config, const ModelSpec& spec,
                                                     std::string name, std::vector<int> cores);
  ~EngineReplica();  // stop()

  const std::string& name() const { return name_; }
  Ops& ops() { return *ops_; }  // the first rank's
  OtherRanks& ranks() { return *other_ranks_; }

  Result<void> make_cache(const KvCacheOptions& options);
  // Its end of the data plane; with transport.kind loopback, workers of its own beside it (their experts may
  // be those of another replica's).
  Result<void> open_exchange(const config::Config& config, const ModelSpec& spec);
  std::string exchange_address() const { return exchange_->local_address(); }
  LocalWorkers* local_workers() { return local_workers_.get(); }  // null: they are elsewhere

  // Starts the engine, and its local workers. Borrows spec and weights.
  Result<void> start(const config::Config& config, EngineOptions options, const ModelSpec& spec,
                     const DenseWeights& weights);
  Engine* engine() { return engine_.get(); }  // null until start()
  const Engine* engine() const { return engine_.get(); }
  int64_t kv_capacity_tokens() const { return kv_capacity_tokens_; }

  void stop();        // ends the engine after the step under way
  void end_engine();  // for good: it lets go of the weights

 private:
  void log_service() const;
  EngineReplica(std::string name, std::vector<int> cores)
      : name_(std::move(name)), cores_(std::move(cores)) {}

  const std::string name_;
  const std::vector<int> cores_;
  std::unique_ptr<Ops> ops_;  // the first rank's; so cache_
  std::unique_ptr<TailPool> tails_;
  std::unique_ptr<LoopbackFabric> fabric_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<LocalWorkers> local_workers_;
  std::unique_ptr<OtherRanks> other_ranks_;
  std::unique_ptr<KvCache> cache_;  // until the engine takes it
  int64_t kv_capacity_tokens_ = 0;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

}  // namespace guildhall
