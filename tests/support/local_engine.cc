#include "tests/support/local_engine.h"

#include <pthread.h>
#include <sched.h>

#include <iterator>

#include "kernels/cpu_ops.h"
#include "router/shared_memory_collective.h"

namespace guildhall {
namespace {

// To the nth core this process may use, counted round.
void pin(std::thread& thread, int n) {
  cpu_set_t usable, one;
  sched_getaffinity(0, sizeof usable, &usable);
  CPU_ZERO(&one);
  n %= CPU_COUNT(&usable);
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &usable) && n-- == 0) CPU_SET(core, &one);
  pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
}

}  // namespace

LocalEngine::LocalEngine(const std::filesystem::path& checkpoint, const LocalEngineOptions& options)
    : checkpoint_(checkpoint),
      options_(options),
      spec_(read_model_spec(checkpoint).value()),
      placement_(even_split(spec_, options.num_workers, 1)),
      ops_(make_ops()),
      tails_(make_tails()),
      fabric_(0, options.wait),
      exchange_(fabric_.make_end("router", tails_.get())),
      members_(static_cast<size_t>(options.num_workers)) {
  auto ranks = make_ranks();
  engine_ = std::make_unique<Engine>(engine_options(), spec_, *weights_, *exchange_, std::move(cache_), *ops_,
                                     std::move(ranks));
  for (int i = 0; i < options.num_workers && options.latency.count() > 0; ++i) {
    fabric_.set_faults("router", worker_name(i), {.latency = options.latency});
    fabric_.set_faults(worker_name(i), "router", {.latency = options.latency});
  }
  if (options.attach_workers)
    for (int i = 0; i < options.num_workers; ++i) attach_worker(i);
  thread_ = std::thread([this] { engine_->run(); });
  if (options.own_cores) pin(thread_, 0);
  while (options.attach_workers && !engine_->serving()) std::this_thread::yield();
}

LocalEngine::~LocalEngine() { stop(); }

void LocalEngine::stop() {
  engine_->stop();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<Ops> LocalEngine::make_ops() const {
  return options_.make_ops ? options_.make_ops() : make_cpu_ops({.num_threads = options_.num_threads});
}

std::unique_ptr<TailPool> LocalEngine::make_tails() const {
  if (!options_.tails) return nullptr;
  return std::make_unique<TailPool>(
      TailMemory{.allocate = [&memory = ops_->memory()](size_t bytes) -> Result<TailBuffer> {
        GH_ASSIGN(MemoryBlock block, memory.allocate_for_transfers(static_cast<int64_t>(bytes)));
        return TailBuffer(std::move(block));
      }});
}

KvCacheOptions LocalEngine::cache_options() const {
  KvCacheOptions options{.block_size = options_.block_size,
                         .dtype = options_.kv_dtype,
                         .max_model_len = std::min(spec_.max_position, options_.kv_tokens),
                         .max_tokens = options_.kv_tokens,
                         .prefix_caching = options_.prefix_caching};
  const int64_t page_bytes = KvCache::page_bytes(spec_, options);
  options.memory_bytes = options_.kv_tokens / options_.block_size * page_bytes;
  options.swap_bytes = options_.swap_tokens / options_.block_size * page_bytes;
  return options;
}

// Also makes the first rank's weights and cache; null where it is the only one.
std::unique_ptr<TensorRanks> LocalEngine::make_ranks() {
  std::vector<ModelShard> shard_r;
  std::vector<Ops*> ops_r;
  std::vector<TensorRanks::Rank> others(static_cast<size_t>(options_.num_ranks - 1));
  for (int r = 0; r < options_.num_ranks; ++r) {
    shard_r.push_back(make_shard(spec_, r, options_.num_ranks).value());
    if (r > 0) others[static_cast<size_t>(r - 1)].ops = make_ops();
    ops_r.push_back(r == 0 ? ops_.get() : others[static_cast<size_t>(r - 1)].ops.get());
    auto loaded = DenseWeights::load(checkpoint_, spec_, shard_r.back(), options_.load, progress_,
                                     ops_r.back()->memory())
                      .value();
    if (r == 0)
      weights_ = std::move(loaded);
    else
      others[static_cast<size_t>(r - 1)].weights = std::move(loaded);
  }
  auto caches = make_rank_caches(shard_r, cache_options(), ops_r).value();
  cache_ = std::move(caches[0]);
  if (others.empty()) return nullptr;
  for (size_t i = 0; i < others.size(); ++i) others[i].cache = std::move(caches[i + 1]);
  constexpr int64_t kSpinNs = 20'000;
  auto group =
      options_.make_group ? options_.make_group(ops_r) : std::make_unique<SharedMemoryGroup>(ops_r, kSpinNs);
  return std::make_unique<TensorRanks>(shard_r, std::move(others), std::move(group), kSpinNs);
}

EngineOptions LocalEngine::engine_options() {
  EngineOptions engine;
  engine.scheduler = {.max_sequences = options_.max_sequences,
                      .max_batched_tokens = options_.max_batched_tokens,
                      .reserve_share = options_.reserve_share,
                      .preemption = options_.preemption};
  engine.dispatcher = {
      .experts = expert_grid(spec_),
      .num_workers = options_.num_workers,
      .replicas = options_.replicas,
      .codecs_w = std::vector<RowCodecs>(static_cast<size_t>(options_.num_workers), options_.codecs),
      .combine = options_.combine,
      .hidden = spec_.hidden,
      .top_k = spec_.moe.top_k,
      .max_tokens = options_.max_batched_tokens,
      .deadline = options_.deadline};
  if (!options_.worker_threads) engine.dispatcher.pump_local_workers = [this] { return pump(); };
  engine.micro_batches = options_.micro_batches;
  recorder_ = std::make_unique<RoutingRecorder>(
      RoutingOptions{.shape = routing_shape(spec_, "local"), .num_workers = options_.num_workers});
  engine.recorder = recorder_.get();
  engine.max_waiting = options_.max_waiting;
  engine.max_model_len = std::min(spec_.max_position, options_.kv_tokens);
  engine.recovery_timeout = options_.recovery_timeout;
  engine.spill = options_.spill;
  engine.on_worker_attached = [](int32_t, const std::string&) {};
  engine.on_worker_lost = [this](const LostWorker& lost) {
    std::lock_guard lock(mutex_);
    losses_.emplace_back(lost.worker, lost.why);
    lost_.notify_all();
  };
  return engine;
}

bool LocalEngine::pump() {
  std::lock_guard lock(mutex_);
  bool worked = false;
  for (auto& m : members_) worked |= m && m->worker->poll();
  return worked;
}

LocalEngine::Member::~Member() {
  if (!thread.joinable()) return;
  worker->stop();
  thread.join();
}

void LocalEngine::attach_worker(int i) {
  auto m = std::make_unique<Member>();
  m->exchange = fabric_.make_end(worker_name(i), tails_.get());
  m->worker = std::make_unique<Worker>(
      spec_, *m->exchange,
      options_.workers_on_cpu ? make_cpu_ops({.num_threads = options_.num_threads}) : make_ops());
  const ExpertsOfLayer experts_l = first_experts(i);
  m->worker->set_store(load_experts(experts_l, *m->worker));
  std::lock_guard lock(mutex_);
  m->generation = ++last_generation_;
  m->worker->attach_router("router", exchange_->local_address(), m->generation,
                           [](Result<void> attached) { attached.value(); });
  if (options_.worker_threads) m->thread = std::thread([worker = m->worker.get()] { worker->run(); });
  if (options_.worker_threads && options_.own_cores) pin(m->thread, 1 + i);
  engine_->attach_worker(i, worker_name(i), m->exchange->local_address(), m->generation,
                         {m->version, experts_l}, /*taken=*/{});
  std::swap(members_[static_cast<size_t>(i)], m);
}

ExpertsOfLayer LocalEngine::first_experts(int i) const {
  ExpertsOfLayer experts_l(placement_.worker_le.size());
  const int num_workers = options_.num_workers;
  for (size_t l = 0; l < experts_l.size(); ++l)
    for (size_t e = 0; e < placement_.worker_le[l].size(); ++e)
      if ((i - placement_.worker_le[l][e] + num_workers) % num_workers < options_.num_replicas)
        experts_l[l].push_back(static_cast<int32_t>(e));
  return experts_l;
}

std::shared_ptr<const ExpertStore> LocalEngine::load_experts(const ExpertsOfLayer& experts_l,
                                                             Worker& worker) {
  return ExpertStore::load(checkpoint_, spec_, options_.load, experts_l, progress_, worker.memory()).value();
}

void LocalEngine::load_worker(int i, const ExpertsOfLayer& experts_l) {
  Worker& worker = *members_[static_cast<size_t>(i)]->worker;
  worker.set_store(load_experts(experts_l, worker));
}

void LocalEngine::announce(int i, ExpertsOfLayer experts_l, std::function<void()> taken) {
  std::lock_guard lock(mutex_);
  Member& m = *members_[static_cast<size_t>(i)];
  engine_->set_holdings(i, m.generation, {++m.version, std::move(experts_l)}, std::move(taken));
}

WorkerCounters LocalEngine::worker_counters(int i) {
  std::lock_guard lock(mutex_);
  return members_[static_cast<size_t>(i)]->worker->counters();
}

std::pair<int32_t, Status> LocalEngine::wait_for_loss() {
  std::unique_lock lock(mutex_);
  lost_.wait(lock, [&] { return !losses_.empty(); });
  auto loss = losses_.front();
  losses_.pop_front();
  return loss;
}

std::future<Completion> LocalEngine::submit(EngineRequest request) {
  return try_submit(std::move(request)).value();
}

Result<std::future<Completion>> LocalEngine::try_submit(EngineRequest request) {
  struct Pending {
    Completion completion;
    std::promise<Completion> promise;
  };
  auto pending = std::make_shared<Pending>();
  auto future = pending->promise.get_future();
  const auto append = [](auto& to, auto& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  GH_TRY(engine_->submit(std::move(request), [pending, append](EngineEvent&& event) {
    Completion& c = pending->completion;
    append(c.prompt_logprobs, event.prompt_logprobs);
    c.num_cached_tokens = event.num_cached_tokens;
    append(c.tokens, event.tokens);
    append(c.logprobs, event.logprobs);
    append(c.routed_experts, event.routed_experts);
    append(c.prompt_routed_experts, event.prompt_routed_experts);
    if (!event.finish) return;
    c.finish = *event.finish;
    c.error = event.error;
    pending->promise.set_value(std::move(c));
  }));
  return future;
}

}  // namespace guildhall
