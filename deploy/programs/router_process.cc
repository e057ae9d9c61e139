#include "deploy/programs/router_process.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "base/log.h"
#include "base/units.h"
#include "deploy/programs/kv_memory.h"
#include "deploy/programs/model_files.h"
#include "deploy/programs/settings.h"
#include "kernels/isa.h"
#include "model/fingerprint.h"

namespace guildhall {
namespace {
constexpr std::chrono::seconds kDrainLimit{30};
}

RouterProcess::RouterProcess(config::Config config)
    : config_(std::move(config)), control_([this] { on_signal(); }) {}

RouterProcess::~RouterProcess() { stop(); }

Result<void> RouterProcess::run() {
  const Result<void> started = start();
  if (started.has_error() && !shutdown_.requested()) {
    stop();
    return started.error();
  }
  const std::optional<Status> why = shutdown_.wait();
  stop();
  if (why) return *why;
  log_info("stopped", "router={}", config_.router().name());
  return {};
}

Result<void> RouterProcess::start() {
  GH_TRY(apply_isa(config_));
  GH_ASSIGN(spec_, read_spec(config_));
  GH_TRY(check_frame_size(config_, spec_));
  GH_ASSIGN(max_model_len_, max_model_len(config_, spec_));
  GH_ASSIGN(tokenizer_, read_tokenizer(config_, spec_));
  if (auto chat_template = ChatTemplate::load(config_.model().path()))
    chat_template_ = *std::move(chat_template);
  else  // everything but conversations works
    log_warn("chat_template_refused", "reason=\"{}\"", chat_template.error().message);
  GH_ASSIGN(other_ranks_, OtherRanks::divide(config_, spec_));
  GH_ASSIGN(ops_, open_device("router.dense.device", other_ranks_->device(0), dense_team_options(config_)));
  GH_TRY(other_ranks_->open(config_));
  // On a GPU what is left is known when the weights are there.
  if (ops_->memory().is_host()) GH_TRY(make_cache());
  GH_TRY(make_links());
  HttpServerOptions http = http_options(config_, spec_, max_model_len_);
  if (const std::string& file = config_.router().http().api_keys_file(); !file.empty()) {
    GH_ASSIGN(http.api_keys, ApiKeys::read(file));
  }
  GH_ASSIGN(http_, HttpServer::start(std::move(http), *this));
  log_info("listening", "address={} model={} isa={}", http_->address(), config_.model().name(),
           to_string(current_isa()));
  control_.start();
  GH_TRY(load());
  if (!cache_) GH_TRY(make_cache());
  return start_engine();
}

Result<void> RouterProcess::make_cache() {
  KvCacheOptions options = kv_cache_options(config_, max_model_len_);
  const KvMemoryRule rule = kv_memory_rule(config_);
  if (ops_->memory().is_host()) {
    if (rule.fraction)
      return Status{Code::invalid_argument,
                    "router.kv_cache.memory_fraction: it is for GPUs, and the dense "
                    "layers run on the CPU; give router.kv_cache.memory instead"};
  } else {
    GH_ASSIGN(options.memory_bytes, other_ranks_->measure(config_, options, {*ops_, *weights_}));
  }
  GH_ASSIGN(cache_, other_ranks_->make_caches(options, *ops_));
  kv_capacity_tokens_ = cache_->capacity_tokens();
  return {};
}

// The exchange, and the control links on which workers will start loading while this process does.
Result<void> RouterProcess::make_links() {
  placement_ = even_split(spec_, config_.experts().workers_size(), 1);
  if (config_.transport().kind() == "loopback") {
    fabric_ = std::make_unique<LoopbackFabric>();
    exchange_ = fabric_->make_end(config_.router().name());
    GH_ASSIGN(local_workers_, LocalWorkers::make(config_, spec_, *fabric_));
  } else {
    tails_ = tail_pool(config_, ops_->memory());
    ExchangeOptions exchange = exchange_options(config_, config_.router().name(), tails_.get());
    exchange.nccl.is_hub = true;
    GH_ASSIGN(exchange_, make_exchange(exchange));
    std::vector<WorkerAddress> workers;
    for (const config::Worker& w : config_.experts().workers())
      workers.push_back({w.name(), w.address(), row_codecs(w)});
    ClusterOptions options{
        .router_name = config_.router().name(),
        .exchange_kind = config_.transport().kind(),
        .exchange_address = exchange_->local_address(),
        .model_type = spec_.model_type,
        .model_fingerprint = fingerprint(spec_),
        .combine = combine_mode(config_),
        .isa = std::string(to_string(current_isa())),
        .heartbeat = std::chrono::microseconds(config_.transport().heartbeat_us()),
        .startup_timeout = std::chrono::microseconds(config_.transport().startup_timeout_us())};
    cluster_ = std::make_unique<Cluster>(control_.io(), std::move(options), std::move(workers), placement_,
                                         cluster_events());
    boost::asio::post(control_.io(), [this] { cluster_->start(); });
  }
  return {};
}

ClusterEvents RouterProcess::cluster_events() {
  ClusterEvents events;
  events.on_ready = [this](int32_t worker, const std::string& address, uint64_t generation) {
    const std::string name = config_.experts().workers(worker).name();
    with_engine([=](Engine& engine) { engine.attach_worker(worker, name, address, generation); });
  };
  events.on_lost = [this](int32_t worker, const Status&) {
    with_engine([worker](Engine& engine) { engine.detach_worker(worker); });
  };
  events.on_startup_failed = [this](const Status& why) {
    cancel_load();
    shutdown_.request(why);
  };
  return events;
}

void RouterProcess::with_engine(std::function<void(Engine&)> action) {
  std::lock_guard lock(mutex_);
  if (engine_ready_)
    action(*engine_);
  else
    before_engine_.push_back(std::move(action));
}

Result<void> RouterProcess::load() {
  const auto begin = Clock::now();
  GH_ASSIGN(weights_, DenseWeights::load(config_.model().path(), spec_, other_ranks_->shard(0),
                                         load_mode(config_), progress_, ops_->memory()));
  GH_TRY(other_ranks_->load(config_, spec_, progress_));
  if (local_workers_) GH_TRY(local_workers_->load(placement_));
  log_info("weights_loaded", "size=\"{}\" time=\"{}\"", format_bytes(weights_->bytes()),
           format_duration(Clock::now() - begin));
  return {};
}

Result<void> RouterProcess::start_engine() {
  EngineOptions options = engine_options(config_, spec_, max_model_len_);
  options.on_worker_attached = [this](int32_t worker, const std::string& transport) {
    if (cluster_) cluster_->set_transport(worker, transport);
  };
  options.on_worker_lost = [this](const LostWorker& lost) {
    if (cluster_)
      cluster_->drop(lost.worker, lost.generation, lost.why);
    else
      shutdown_.request(lost.why);  // a worker in this process cannot come back
  };
  if (local_workers_) options.dispatcher.pump_local_workers = [this] { return local_workers_->pump(); };
  GH_ASSIGN(auto ranks, other_ranks_->join(config_, *ops_));
  engine_ = std::make_unique<Engine>(std::move(options), spec_, *weights_, *exchange_, std::move(cache_),
                                     *ops_, std::move(ranks));
  engine_->set_placement(placement_);
  if (local_workers_) local_workers_->attach(*engine_, exchange_->local_address());
  {
    std::lock_guard lock(mutex_);
    engine_ready_ = true;
    for (const auto& action : before_engine_) action(*engine_);
    before_engine_.clear();
  }
  engine_thread_ = std::thread([this] { engine_->run(); });
  http_->attach(*engine_, *tokenizer_, spec_.eos_token_ids, chat_template_.get());
  return {};
}

void RouterProcess::on_signal() {
  if (shutdown_.requested()) {
    log_warn("stopping_now", "reason=\"second signal\"");
    std::_Exit(1);
  }
  log_info("draining", "router={}", config_.router().name());
  cancel_load();
  shutdown_.request();
}

void RouterProcess::cancel_load() {
  progress_.cancel = true;
  if (local_workers_) local_workers_->cancel_load();
}

// Refuse new requests, let those under way end, then take everything down in the order of use.
void RouterProcess::stop() {
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }
  if (engine_) engine_->drain();
  if (http_) http_->stop(kDrainLimit);
  if (engine_) engine_->stop();
  if (engine_thread_.joinable()) {
    engine_thread_.join();
    report_service();
  }
  if (cluster_) cluster_->close();
  control_.stop();
  http_.reset();
  cluster_.reset();
}

// Where the steps' time went; what is neither kernels nor exchange is our own overhead.
void RouterProcess::report_service() const {
  const EngineCounters c = engine_->counters();
  const double total = static_cast<double>(std::max<int64_t>(1, c.step_ns));
  log_info("served",
           "steps={} prompt_tokens={} generated_tokens={} kernels={:.1f}% exchange={:.1f}% other={:.1f}%",
           c.steps, c.prompt_tokens, c.generated_tokens, 100 * static_cast<double>(c.kernel_ns) / total,
           100 * static_cast<double>(c.exchange_ns) / total,
           100 * static_cast<double>(c.step_ns - c.kernel_ns - c.exchange_ns) / total);
}

ServingStatus RouterProcess::serving_status() const {
  ServingStatus status;
  status.elapsed_s = std::chrono::duration<double>(Clock::now() - started_).count();
  status.router_bytes_done = progress_.bytes_done;
  status.router_bytes_total = progress_.bytes_total;
  status.kv_capacity_tokens = kv_capacity_tokens_;
  if (cluster_)
    status.workers = cluster_->status();
  else if (local_workers_)
    status.workers = local_workers_->status();
  std::lock_guard lock(mutex_);
  if (draining_)
    status.state = ServingState::draining;
  else if (!engine_ready_)
    status.state = ServingState::loading;
  else if (engine_->serving())
    status.state = ServingState::ready, was_ready_ = true;
  else
    status.state = was_ready_ ? ServingState::degraded : ServingState::loading;
  for (const WorkerStatus& w : status.workers)
    if (engine_ready_ && w.state != "ready" && w.state != "loading")
      status.message += w.name + " is " + w.state + ". ";
  return status;
}

}  // namespace guildhall
