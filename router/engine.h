// engine.h: the engine of one replica: takes requests, runs steps, reports tokens.
// Lifecycle: made, then run() on the engine thread until drain() or stop(). All else is for any thread.
// A lost worker voids the step under way: while every expert has a replica on an attached worker, it is run
// again at once. Else the engine pauses: its sequences are preempted and recomputed when the experts are
// there again (the same tokens come out, by the row rule), or failed when they are not within
// recovery_timeout. Requests that come meanwhile wait with them; later ones are refused.
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
#include "router/step_routing.h"
#include "router/tensor_ranks.h"

namespace guildhall {

struct EngineOptions {
  std::string name;  // of the replica, in logs
  SchedulerOptions scheduler;
  DispatcherOptions dispatcher;
  // automatic: from measured times; always one when workers live in this process, as their experts then run
  // on this thread.
  MicroBatches micro_batches = MicroBatches::automatic;
  RoutingRecorder* recorder = nullptr;  // of all the router's engines; borrowed. Null: routing is not counted
  int64_t max_waiting = 1024;
  int64_t max_model_len = 0;
  std::chrono::nanoseconds recovery_timeout{};
  // Of the file for cold pages of the KV cache. Where it cannot be made, the log says so, and there is none.
  std::optional<SpillOptions> spill;
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
  RoutingShape routing() const override { return routing_shape(spec_); }
  bool paused() const override { return !serving(); }

  // A worker may be asked for what it announced: connects to it. None of these waits for the step under way,
  // which goes by what is attached and held at each of its layers, and ends at once if it awaits a worker
  // that is detached. `taken` is called on the engine thread between two steps, once nothing but the
  // announcement is in use (LivePlacement); never, when the link ends or another announcement comes before.
  void attach_worker(int32_t worker, std::string name, std::string exchange_address, uint64_t generation,
                     Holdings holdings, std::function<void()> taken);
  void set_holdings(int32_t worker, uint64_t generation, Holdings holdings, std::function<void()> taken);
  void detach_worker(int32_t worker);

  // Any thread, while run() runs: checks the books of pages between two steps. What is wrong, or nothing.
  std::string audit();

  void run();
  void drain();  // refuse new requests; run() returns when the last one is done
  void stop();   // run() returns after the current step; what is left is cancelled

  int64_t kv_capacity_tokens() const { return cache_->capacity_tokens(); }
  const StepClock& clock() const { return clock_; }
  // Every worker was attached once, and every expert has a worker now.
  bool serving() const { return serving_.load(std::memory_order_acquire); }
  std::string why_not_serving() const;  // empty: serving, or not yet

 private:
  std::vector<RankCache> rank_caches() const;
  std::unique_ptr<PageSpill> make_spill() const;
  DispatcherOptions dispatcher_options();
  MicroBatches micro_batches() const;
  void post(std::function<void()> command);
  void post_link_change(std::function<void()> change);
  void await_taken(int32_t worker, uint64_t generation, std::function<void()> taken);
  void settle_holdings();
  bool run_commands();
  bool run_link_changes();
  void wait_for_work();
  void update_serving();
  void step();
  Result<View2<const float>> run_forward();
  bool collect_lost_workers();
  void give_up_step(const Status& why);
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
  std::optional<StepRouting> routing_;
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
  bool was_complete_ = false;                      // every worker was attached at once
  // Announcements that are not settled yet, one of a worker at most.
  struct Announced {
    int32_t worker = 0;
    uint64_t generation = 0;
    std::function<void()> taken;
  };
  std::vector<Announced> unsettled_;
  ServingStats stats_;

  std::mutex mutex_;  // guards the next four
  std::vector<std::function<void()>> commands_;
  std::vector<std::function<void()>> link_changes_;  // run at any time; commands only between steps
  int64_t num_submitted_ = 0;                        // of commands_
  bool ended_ = false;                               // run() takes no more of them
  std::atomic<int64_t> num_waiting_{0};              // in the scheduler, not running yet
  std::atomic<bool> has_link_changes_{false}, serving_{false}, draining_{false}, stopping_{false};
  std::atomic<int64_t> accepts_until_ns_{0};  // though it does not serve
  std::atomic<RequestId> next_id_{1};
  mutable std::mutex counters_mutex_;  // guards the next two
  EngineCounters counters_;
  std::string why_not_serving_;
};

}  // namespace guildhall
