// local_engine.h: a whole model in this process: engine thread, loopback exchange, local expert workers. For
// tests.
#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "experts/worker.h"
#include "router/engine.h"
#include "router/routing_recorder.h"
#include "transport/loopback.h"
#include "transport/tail_pool.h"

namespace guildhall {

struct LocalEngineOptions {
  int num_workers = 2;
  int num_replicas = 1;  // each expert is on its worker of the even split and on those after it
  ReplicaRules replicas;
  int num_threads = 2;
  int num_ranks = 1;  // of tensor parallelism, each with num_threads
  int64_t max_sequences = 32;
  int64_t max_batched_tokens = 64;
  int64_t block_size = 16;
  int64_t kv_tokens = 1 << 14;
  bool prefix_caching = true;
  int64_t swap_tokens = 0;
  std::optional<SpillOptions> spill;
  double reserve_share = 0;
  Preemption preemption = Preemption::measured;
  RowCodecs codecs;
  Combine combine = Combine::exact;
  DType kv_dtype = DType::f32;
  LoadMode load = LoadMode::checkpoint;
  bool worker_threads = false;  // each worker on a thread of its own; else the engine's runs them as it waits
  bool own_cores =
      false;  // the engine's thread and the workers' on one core each, as on machines of their own
  std::chrono::nanoseconds latency{0};  // of each frame, one way
  WaitOptions wait;
  MicroBatches micro_batches = MicroBatches::automatic;
  bool attach_workers = true;  // false: the test does, and the engine is not serving until then
  int64_t max_waiting = 1024;
  bool workers_on_cpu = false;  // whatever make_ops makes
  // The engine's device and each worker's; empty: the CPU with num_threads.
  std::function<std::unique_ptr<Ops>()> make_ops;
  // How ranks meet; empty: through shared memory.
  std::function<std::unique_ptr<CollectiveGroup>(const std::vector<Ops*>&)> make_group;
  bool tails = false;  // on a device: all rows stay in its memory
  std::chrono::nanoseconds deadline = std::chrono::minutes(1), recovery_timeout = std::chrono::minutes(1);
};

// What one request came to.
struct Completion {
  std::vector<PositionLogprobs> prompt_logprobs;
  std::vector<int32_t> tokens;
  std::vector<PositionLogprobs> logprobs;
  std::vector<uint16_t> routed_experts, prompt_routed_experts;
  int64_t num_cached_tokens = 0;
  FinishReason finish = FinishReason::error;
  std::optional<Status> error;
};

class LocalEngine {
 public:
  // Throws what loading returns.
  LocalEngine(const std::filesystem::path& checkpoint, const LocalEngineOptions& options);
  ~LocalEngine();

  Engine& engine() { return *engine_; }
  Ops& ops() { return *ops_; }
  uint64_t num_tails() const { return tails_ ? tails_->num_taken() : 0; }
  LoopbackFabric& fabric() { return fabric_; }
  const ModelSpec& spec() const { return spec_; }
  RoutingRecorder& recorder() { return *recorder_; }
  int64_t dense_bytes() const { return weights_->bytes(); }
  WorkerCounters worker_counters(int i);

  std::future<Completion> submit(EngineRequest request);
  Completion run(EngineRequest request) { return submit(std::move(request)).get(); }
  // submit() that may be refused.
  Result<std::future<Completion>> try_submit(EngineRequest request);

  // Any thread. Worker i, named "w<i>", dies; a new one takes its place and name.
  void kill_worker(int i) { fabric_.kill(worker_name(i)); }
  void attach_worker(int i);
  // Worker i holds these, and nothing else, from now on. Announced or not.
  void load_worker(int i, const ExpertsOfLayer& experts_l);
  // Worker i announces them; `taken` as the engine calls it.
  void announce(int i, ExpertsOfLayer experts_l, std::function<void()> taken = {});
  ExpertsOfLayer first_experts(int i) const;  // that it is attached with
  // Waits for the engine to lose a worker: which, and why.
  std::pair<int32_t, Status> wait_for_loss();
  void stop();  // and waits for the engine thread

 private:
  struct Member {
    ~Member();  // ends its thread, if it has one
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Worker> worker;
    uint64_t generation = 0;  // of its link
    uint32_t version = 1;     // of its announcements
    std::thread thread;
  };
  static std::string worker_name(int i) { return "w" + std::to_string(i); }
  std::unique_ptr<Ops> make_ops() const;
  std::unique_ptr<TailPool> make_tails() const;
  std::unique_ptr<TensorRanks> make_ranks();
  KvCacheOptions cache_options() const;
  EngineOptions engine_options();
  bool pump();
  std::shared_ptr<const ExpertStore> load_experts(const ExpertsOfLayer& experts_l, Worker& worker);

  const std::filesystem::path checkpoint_;
  const LocalEngineOptions options_;
  ModelSpec spec_;
  LoadProgress progress_;
  Placement placement_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<TailPool> tails_;
  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> exchange_;
  std::mutex mutex_;  // guards members_ and what follows
  std::vector<std::unique_ptr<Member>> members_;
  uint64_t last_generation_ = 0;
  std::deque<std::pair<int32_t, Status>> losses_;
  std::condition_variable lost_;
  std::unique_ptr<DenseWeights> weights_;
  std::unique_ptr<KvCache> cache_;  // until the engine takes it
  std::unique_ptr<RoutingRecorder> recorder_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

}  // namespace guildhall
