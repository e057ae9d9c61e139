#include "deploy/programs/replica.h"

#include "base/affinity.h"
#include "base/log.h"
#include "deploy/programs/settings.h"

namespace guildhall {

Result<std::unique_ptr<EngineReplica>> EngineReplica::open(const config::Config& config,
                                                           const ModelSpec& spec, std::string name,
                                                           std::vector<int> cores) {
  std::unique_ptr<EngineReplica> replica(new EngineReplica(std::move(name), std::move(cores)));
  const OnCores here(replica->cores_);  // the team's threads start here
  GH_ASSIGN(replica->other_ranks_, OtherRanks::divide(config, spec));
  OtherRanks& ranks = *replica->other_ranks_;
  const TeamOptions team = dense_team_options(config);  // its share of all cores
  {
    const OnCores first(ranks.cores(0));
    GH_ASSIGN(replica->ops_, open_device("router.dense.device", ranks.device(0), team));
  }
  GH_TRY(ranks.open(config));
  return replica;
}

EngineReplica::~EngineReplica() { stop(); }

Result<void> EngineReplica::make_cache(const KvCacheOptions& options) {
  const OnCores here(cores_);  // pages are touched first, and so lie, where they will be read
  GH_ASSIGN(cache_, other_ranks_->make_caches(options, *ops_));
  kv_capacity_tokens_ = cache_->capacity_tokens();
  return {};
}

Result<void> EngineReplica::open_exchange(const config::Config& config, const ModelSpec& spec) {
  const OnCores here(cores_);
  if (config.transport().kind() == "loopback") {
    fabric_ = std::make_unique<LoopbackFabric>();
    exchange_ = fabric_->make_end(name_);
    GH_ASSIGN(local_workers_, LocalWorkers::make(config, spec, *fabric_));
    return {};
  }
  tails_ = tail_pool(config, ops_->memory());
  ExchangeOptions exchange = exchange_options(config, name_, tails_.get());
  exchange.nccl.is_hub = true;
  GH_ASSIGN(exchange_, make_exchange(exchange));
  return {};
}

Result<void> EngineReplica::start(const config::Config& config, EngineOptions options, const ModelSpec& spec,
                                  const DenseWeights& weights) {
  if (local_workers_) options.dispatcher.pump_local_workers = [this] { return local_workers_->pump(); };
  GH_ASSIGN(auto ranks, other_ranks_->join(config, *ops_));
  engine_ = std::make_unique<Engine>(std::move(options), spec, weights, *exchange_, std::move(cache_), *ops_,
                                     std::move(ranks));
  if (local_workers_) local_workers_->attach(*engine_, exchange_->local_address());
  thread_ = std::thread([this] {
    stay_on(cores_);
    stay_on(other_ranks_->cores(0));
    engine_->run();
  });
  return {};
}

void EngineReplica::stop() {
  if (!thread_.joinable()) return;
  engine_->stop();
  thread_.join();
  log_service();
}

void EngineReplica::end_engine() {
  stop();
  engine_.reset();
}

// Where the steps' time went; what is neither kernels nor exchange is our own overhead.
void EngineReplica::log_service() const {
  const EngineCounters c = engine_->counters();
  const double total = static_cast<double>(std::max<int64_t>(1, c.step_ns));
  log_info("served",
           "replica={} steps={} prompt_tokens={} generated_tokens={} kernels={:.1f}% exchange={:.1f}% "
           "other={:.1f}%",
           name_, c.steps, c.prompt_tokens, c.generated_tokens,
           100 * static_cast<double>(c.kernel_ns) / total, 100 * static_cast<double>(c.exchange_ns) / total,
           100 * static_cast<double>(c.step_ns - c.kernel_ns - c.exchange_ns) / total);
}

}  // namespace guildhall
