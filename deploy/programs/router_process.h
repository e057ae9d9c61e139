// router_process.h: everything a guildhall-router is made of, from start to orderly end.
//   listen (health says loading) -> greet workers while loading dense weights -> engines -> serve -> drain
// Its replicas (router.dense.data_parallel) share the weights and one control link per worker.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "deploy/programs/balance_service.h"
#include "deploy/programs/control_thread.h"
#include "deploy/programs/daemon_main.h"
#include "deploy/programs/expert_watch.h"
#include "deploy/programs/reload.h"
#include "deploy/programs/replica.h"
#include "deploy/programs/shutdown.h"
#include "model/tokenizer/tokenizer.h"
#include "model/weights.h"
#include "proto/config.pb.h"
#include "router/cluster.h"
#include "router/front_end.h"
#include "router/http/server.h"
#include "router/status_board.h"

namespace guildhall {

class RouterProcess final : public StatusSource {
 public:
  explicit RouterProcess(DaemonStart start);
  ~RouterProcess() override;

  // Serves until a signal; the error is what kept it from starting or going on.
  Result<void> run();

  ServingStatus serving_status() const override;

 private:
  Result<void> start();
  Result<void> open_replicas();
  Result<void> make_links();
  Result<void> load();
  Result<void> make_caches();
  Result<void> start_engines();
  void stop();
  void on_signal();
  void cancel_load();
  ClusterEvents cluster_events();
  struct Announcement {
    int32_t worker = 0;
    uint64_t generation = 0;
    uint32_t version = 0;
  };
  std::function<void()> when_all_took(Announcement announcement);
  void with_engines(std::function<void(Engine&)> action);
  void make_balancing();
  void set_balance(const config::Balance& balance);
  BalanceStatus balance_status() const;
  ServedSteps served_steps() const;
  std::vector<WorkerStatus> worker_status() const;
  std::vector<WorkerView> worker_views() const;

  const config::Config config_;
  const std::string why_not_balancing_;  // empty: this router balances
  const Clock::time_point started_ = Clock::now();
  Shutdown shutdown_;
  Reload reload_;
  ControlThread control_;
  ModelSpec spec_;
  int64_t max_model_len_ = 0;
  Placement placement_;  // what workers that hold nothing load
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_template_;  // null: the checkpoint has none
  LoadProgress progress_;
  std::unique_ptr<ExpertWatch> watch_;   // outlives the engines, too
  std::unique_ptr<FrontEnd> front_end_;  // outlives the engines
  std::vector<std::unique_ptr<EngineReplica>>
      replicas_;  // experts and weights are in the memory of the first
  std::unique_ptr<DenseWeights> weights_;
  std::shared_ptr<const ApiKeys> api_keys_;  // null: none are asked for
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<HttpServer> http_;

  mutable std::mutex mutex_;  // guards what follows
  bool engines_ready_ = false, draining_ = false;
  std::optional<config::Balance> new_balance_;  // read again since the start
  std::unique_ptr<BalanceService> balancing_;   // null: loading; or another router does, or nobody
  mutable bool was_ready_ = false;              // seen so by some status request
  std::vector<std::function<void(Engine&)>> before_engines_;  // what happened before they existed
  std::atomic<int64_t> kv_capacity_tokens_{0};
};

}  // namespace guildhall
