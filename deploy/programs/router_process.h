// router_process.h: everything a guildhall-router is made of, from start to orderly end.
//   listen (health says loading) -> greet workers while loading dense weights -> engine -> serve -> drain
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "deploy/programs/control_thread.h"
#include "deploy/programs/local_workers.h"
#include "deploy/programs/other_ranks.h"
#include "deploy/programs/shutdown.h"
#include "model/tokenizer/tokenizer.h"
#include "model/weights.h"
#include "proto/config.pb.h"
#include "router/cluster.h"
#include "router/engine.h"
#include "router/http/server.h"
#include "router/status_board.h"

namespace guildhall {

class RouterProcess final : public StatusSource {
 public:
  explicit RouterProcess(config::Config config);
  ~RouterProcess() override;

  // Serves until a signal; the error is what kept it from starting or going on.
  Result<void> run();

  ServingStatus serving_status() const override;

 private:
  Result<void> start();
  Result<void> make_links();
  Result<void> load();
  Result<void> make_cache();
  Result<void> start_engine();
  void stop();
  void report_service() const;
  void on_signal();
  void cancel_load();
  ClusterEvents cluster_events();
  void with_engine(std::function<void(Engine&)> action);

  const config::Config config_;
  const Clock::time_point started_ = Clock::now();
  Shutdown shutdown_;
  ControlThread control_;
  ModelSpec spec_;
  int64_t max_model_len_ = 0;
  Placement placement_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_template_;  // null: the checkpoint has none
  LoadProgress progress_;
  std::unique_ptr<Ops> ops_;  // the first rank's; so weights_ and cache_
  std::unique_ptr<TailPool> tails_;
  std::unique_ptr<LoopbackFabric> fabric_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<LocalWorkers> local_workers_;
  std::unique_ptr<OtherRanks> other_ranks_;
  std::unique_ptr<KvCache> cache_;  // until the engine takes it
  std::unique_ptr<DenseWeights> weights_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<HttpServer> http_;
  std::thread engine_thread_;

  mutable std::mutex mutex_;  // guards what follows
  bool engine_ready_ = false, draining_ = false;
  mutable bool was_ready_ = false;                           // seen so by some status request
  std::vector<std::function<void(Engine&)>> before_engine_;  // what happened before it existed
  std::atomic<int64_t> kv_capacity_tokens_{0};
};

}  // namespace guildhall
