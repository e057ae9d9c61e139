// engine.h: the engine of one replica: takes requests, runs steps, reports tokens.
// Lifecycle: made, then run() on the engine thread until drain() or stop(). All else is for any thread.
// A lost worker pauses the engine: its sequences are preempted and recomputed when the worker is back (the
// same tokens come out, by the row rule), or failed when it is not back within recovery_timeout.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/ops.h"
#include "router/dispatcher.h"
#include "router/engine_client.h"
#include "router/forward.h"
#include "router/micro_batch_policy.h"
#include "router/sampler.h"
#include "router/scheduler.h"
#include "router/tensor_ranks.h"

namespace guildhall {

struct EngineOptions {
  std::string name;  // of the replica, in logs
  SchedulerOptions scheduler;
  DispatcherOptions dispatcher;
  // automatic: from measured times; always one when workers live in this process, as their experts then run
  // on this thread.
  MicroBatches micro_batches = MicroBatches::automatic;
  int64_t max_waiting = 1024;
  int64_t max_model_len = 0;
  std::chrono::nanoseconds recovery_timeout{};
  // Called on the engine thread.
  std::function<void(int32_t worker, const std::string& transport)> on_worker_attached;
  std::function<void(const LostWorker& lost)> on_worker_lost;
};

class Engine final : public EngineClient {
 public:
  // Borrowed: spec, weights, exchange, ops; weights and cache are in the memory of `ops`. The engine thread
  // owns exchange and ops from run() on. With ranks, weights, cache and ops are the first rank's; `spec` is
  // the whole model's.
  Engine(EngineOptions options, const ModelSpec& spec, const DenseWeights& weights, Exchange& exchange,
         std::unique_ptr<KvCache> cache, Ops& ops, std::unique_ptr<TensorRanks> ranks = nullptr);
  ~Engine() override;

  Result<RequestId> submit(EngineRequest request, EventSink sink) override;
  void cancel(RequestId id) override;
  void complete(RequestId id) override;
  EngineCounters counters() const override;

  void set_placement(Placement placement);
  // A worker holds its experts and may be sent to: connects to it. Neither waits for the step under way,
  // which ends at once if it awaits a worker that is detached.
  void attach_worker(int32_t worker, std::string name, std::string exchange_address, uint64_t generation);
  void detach_worker(int32_t worker);

  // Any thread, while run() runs: checks the books of pages between two steps. What is wrong, or nothing.
  std::string audit();

  void run();
  void drain();  // refuse new requests; run() returns when the last one is done
  void stop();   // run() returns after the current step; what is left is cancelled

  int64_t kv_capacity_tokens() const { return cache_->capacity_tokens(); }
  const StepClock& clock() const { return clock_; }
  bool serving() const { return serving_.load(std::memory_order_acquire); }

 private:
  std::vector<RankCache> rank_caches() const;
  DispatcherOptions dispatcher_options();
  MicroBatches micro_batches() const;
  void post(std::function<void()> command);
  void post_link_change(std::function<void()> change);
  bool run_commands();
  bool run_link_changes();
  void wait_for_work();
  void update_serving();
  void step();
  Result<View2<const float>> run_forward();
  void collect_lost_workers();
  void pause(const Status& why);
  void await_workers();
  void fail_all(const Status& why);
  void end(Sequence& sequence, EngineEvent&& event);
  Result<void> check(const EngineRequest& request) const;
  void list_rows(const std::vector<ScheduledChunk>& chunks);
  Result<void> evaluate(View2<const float> hidden_rh);
  void advance(const ScheduledChunk& chunk);
  std::optional<FinishReason> finished(const Sequence& sequence, int32_t token) const;
  void finish(RequestId id, FinishReason reason, std::optional<Status> error);
  void publish_counters();

  EngineOptions options_;
  const ModelSpec& spec_;
  Exchange& exchange_;
  std::unique_ptr<KvCache> cache_;
  Ops& ops_;
  StepClock clock_;
  Dispatcher dispatcher_;
  std::unique_ptr<TensorRanks> ranks_;  // null: alone
  Scheduler scheduler_;
  Forward forward_;
  Sampler sampler_;
  MicroBatchPolicy policy_;
  StepBatch batch_;
  std::vector<LogitRow> rows_;
  std::vector<RowResult> results_;
  std::optional<Clock::time_point> paused_since_;  // no step has succeeded since
  ServingStats stats_;

  std::mutex mutex_;  // guards the next four
  std::vector<std::function<void()>> commands_;
  std::vector<std::function<void()>> link_changes_;  // run at any time; commands only between steps
  int64_t num_submitted_ = 0;                        // of commands_
  bool ended_ = false;                               // run() takes no more of them
  std::atomic<int64_t> num_waiting_{0};              // in the scheduler, not running yet
  std::atomic<bool> has_link_changes_{false}, serving_{false}, draining_{false}, stopping_{false};
  std::atomic<RequestId> next_id_{1};
  mutable std::mutex counters_mutex_;
  EngineCounters counters_;
};

}  // namespace guildhall
