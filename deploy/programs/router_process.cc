#include "deploy/programs/router_process.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "base/log.h"
#include "base/units.h"
#include "deploy/programs/balance_settings.h"
#include "deploy/programs/kv_memory.h"
#include "deploy/programs/model_files.h"
#include "deploy/programs/settings.h"
#include "kernels/isa.h"
#include "model/fingerprint.h"

namespace guildhall {
namespace {
constexpr std::chrono::seconds kDrainLimit{30};
}

RouterProcess::RouterProcess(DaemonStart start)
    : config_(std::move(start.config)),
      why_not_balancing_(guildhall::why_not_balancing(start.of_file, config_.router().name())),
      reload_(std::move(start.file), std::move(start.of_file),
              [this](const config::Config& config) { set_balance(config.balance()); }),
      control_([this] { on_signal(); }, [this] { (void)reload_.run("SIGHUP"); }) {}

RouterProcess::~RouterProcess() {
  stop();
  for (const auto& replica : replicas_) replica->end_engine();
  weights_.reset();
  while (!replicas_.empty()) replicas_.pop_back();  // the first, whose memory the others use, last
}

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
  GH_TRY(open_replicas());
  // On a GPU what is left is known when the weights are there.
  if (replicas_[0]->ops().memory().is_host()) GH_TRY(make_caches());
  GH_TRY(make_links());
  HttpServerOptions http = http_options(config_, spec_, max_model_len_);
  http.cluster = {.balance = [this] { return balance_status(); },
                  .reload = [this] { return reload_.run("POST /v1/cluster/reload"); }};
  if (const std::string& file = config_.router().http().api_keys_file(); !file.empty()) {
    GH_ASSIGN(api_keys_, ApiKeys::read(file));
    http.api_keys = api_keys_;
  }
  GH_ASSIGN(http_, HttpServer::start(std::move(http), *this));
  log_info("listening", "address={} model={} isa={}", http_->address(), config_.model().name(),
           to_string(current_isa()));
  control_.start();
  GH_TRY(load());
  if (kv_capacity_tokens_ == 0) GH_TRY(make_caches());
  return start_engines();
}

Result<void> RouterProcess::open_replicas() {
  for (std::vector<int>& cores : replica_cores(config_)) {
    const std::string name = replica_name(config_, static_cast<int>(replicas_.size()));
    GH_ASSIGN(std::unique_ptr<EngineReplica> replica,
              EngineReplica::open(config_, spec_, name, std::move(cores)));
    replicas_.push_back(std::move(replica));
  }
  return {};
}

Result<void> RouterProcess::make_caches() {
  KvCacheOptions options = kv_cache_options(config_, max_model_len_);
  if (!replicas_[0]->ops().memory().is_host()) {
    EngineReplica& first = *replicas_[0];
    GH_ASSIGN(options.memory_bytes, first.ranks().measure(config_, options, {first.ops(), *weights_}));
  } else if (kv_memory_rule(config_).fraction) {
    return Status{Code::invalid_argument,
                  "router.kv_cache.memory_fraction: it is for GPUs, and the dense "
                  "layers run on the CPU; give router.kv_cache.memory instead"};
  }
  for (const auto& replica : replicas_) {
    GH_TRY(replica->make_cache(options));
    kv_capacity_tokens_ += replica->kv_capacity_tokens();
  }
  log_info("kv_cache", "dtype={} tokens={} memory=\"{}\" replicas={}", config_.router().kv_cache().dtype(),
           kv_capacity_tokens_.load(), format_bytes(options.memory_bytes), replicas_.size());
  return {};
}

// The exchange, and the control links on which workers will start loading while this process does.
Result<void> RouterProcess::make_links() {
  placement_ = even_split(spec_, config_.experts().workers_size(), 1);
  for (const auto& replica : replicas_) GH_TRY(replica->open_exchange(config_, spec_));
  if (!replicas_[0]->local_workers()) {
    std::vector<std::string> addresses;
    for (const auto& replica : replicas_) addresses.push_back(replica->exchange_address());
    std::vector<WorkerAddress> workers;
    for (const config::Worker& w : config_.experts().workers())
      workers.push_back({w.name(), w.address(), row_codecs(w)});
    ClusterOptions options{
        .router_name = config_.router().name(),
        .exchange_kind = config_.transport().kind(),
        .exchange_addresses = std::move(addresses),
        .model_type = spec_.model_type,
        .model_fingerprint = fingerprint(spec_),
        .experts = expert_grid(spec_),
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
  events.on_ready = [this](int32_t worker, const std::string& address, uint64_t generation,
                           const Holdings& holdings) {
    const std::string name = config_.experts().workers(worker).name();
    const auto taken = when_all_took({worker, generation, holdings.version});
    with_engines(
        [=](Engine& engine) { engine.attach_worker(worker, name, address, generation, holdings, taken); });
  };
  events.on_holdings = [this](int32_t worker, uint64_t generation, const Holdings& holdings) {
    const auto taken = when_all_took({worker, generation, holdings.version});
    with_engines([=](Engine& engine) { engine.set_holdings(worker, generation, holdings, taken); });
  };
  events.on_lost = [this](int32_t worker, const Status&) {
    with_engines([worker](Engine& engine) { engine.detach_worker(worker); });
  };
  events.on_startup_failed = [this](const Status& why) {
    cancel_load();
    shutdown_.request(why);
  };
  return events;
}

// What every engine calls when it has taken an announcement; the last one's call acknowledges it.
std::function<void()> RouterProcess::when_all_took(Announcement announcement) {
  const auto num_left = std::make_shared<std::atomic<size_t>>(replicas_.size());
  return [this, num_left, a = announcement] {
    if (num_left->fetch_sub(1) == 1) cluster_->acknowledge(a.worker, a.generation, a.version);
  };
}

void RouterProcess::with_engines(std::function<void(Engine&)> action) {
  std::lock_guard lock(mutex_);
  if (!engines_ready_) return before_engines_.push_back(std::move(action));
  for (const auto& replica : replicas_) action(*replica->engine());
}

Result<void> RouterProcess::load() {
  const auto begin = Clock::now();
  EngineReplica& first_replica = *replicas_[0];
  GH_ASSIGN(weights_, DenseWeights::load(config_.model().path(), spec_, first_replica.ranks().shard(0),
                                         load_mode(config_), progress_, first_replica.ops().memory()));
  GH_TRY(first_replica.ranks().load(config_, spec_, progress_));
  LocalWorkers* const first = first_replica.local_workers();
  if (first) GH_TRY(first->load(placement_));
  for (size_t i = 1; first && i < replicas_.size(); ++i) GH_TRY(replicas_[i]->local_workers()->share(*first));
  log_info("weights_loaded", "size=\"{}\" time=\"{}\"", format_bytes(weights_->bytes()),
           format_duration(Clock::now() - begin));
  return {};
}

Result<void> RouterProcess::start_engines() {
  ExpertMonitorOptions monitor = expert_monitor_options(config_, spec_);
  monitor.workers = [this] { return worker_views(); };
  {
    std::lock_guard lock(mutex_);
    watch_ = std::make_unique<ExpertWatch>(control_.io(), std::move(monitor));
    if (new_balance_) watch_->monitor().recorder().set_window_steps(new_balance_->window_steps());
  }
  boost::asio::post(control_.io(), [this] { watch_->start(); });
  EngineOptions options = engine_options(config_, spec_, max_model_len_);
  options.recorder = &watch_->monitor().recorder();
  options.on_worker_attached = [this](int32_t worker, const std::string& transport) {
    if (cluster_) cluster_->set_transport(worker, transport);
  };
  options.on_worker_lost = [this](const LostWorker& lost) {
    if (cluster_)
      cluster_->drop(lost.worker, lost.generation, lost.why);
    else
      shutdown_.request(lost.why);  // a worker in this process cannot come back
  };
  std::vector<EngineClient*> engines;
  for (const auto& replica : replicas_) {
    options.name = replica->name();
    GH_TRY(replica->start(config_, options, spec_, *weights_));
    engines.push_back(replica->engine());
  }
  front_end_ = std::make_unique<FrontEnd>(front_end_options(config_), engines);
  {
    std::lock_guard lock(mutex_);
    engines_ready_ = true;
    for (const auto& action : before_engines_)
      for (const auto& replica : replicas_) action(*replica->engine());
    before_engines_.clear();
  }
  make_balancing();
  http_->attach(*front_end_, *tokenizer_, spec_.eos_token_ids, chat_template_.get(), &watch_->monitor());
  return {};
}

void RouterProcess::make_balancing() {
  if (!why_not_balancing_.empty()) {
    if (config_.balance().policy() != "static")
      log_info("balance_inactive", "policy={} reason=\"{}\"", config_.balance().policy(), why_not_balancing_);
    return;
  }
  BalanceParts parts{.cluster = *cluster_,
                     .monitor = watch_->monitor(),
                     .served = [this] { return served_steps(); },
                     .others = {.routers = other_routers(config_),
                                .authorization = api_keys_ ? api_keys_->router_authorization() : "",
                                .shape = watch_->monitor().recorder().shape(),
                                .num_workers = config_.experts().workers_size()}};
  std::lock_guard lock(mutex_);
  config::Config config = config_;
  if (new_balance_) *config.mutable_balance() = *new_balance_;
  balancing_ = std::make_unique<BalanceService>(control_.io(), std::move(parts), config, spec_);
  balancing_->start();
}

void RouterProcess::set_balance(const config::Balance& balance) {
  std::lock_guard lock(mutex_);
  new_balance_ = balance;
  if (watch_) watch_->monitor().recorder().set_window_steps(balance.window_steps());
  if (balancing_) balancing_->set_config(balance);
}

BalanceStatus RouterProcess::balance_status() const {
  std::lock_guard lock(mutex_);
  if (balancing_) return balancing_->status();
  return {.why_off = why_not_balancing_.empty() ? "the router is loading" : why_not_balancing_};
}

ServedSteps RouterProcess::served_steps() const {
  ServedSteps served;
  for (const auto& replica : replicas_) {
    if (!replica->engine()) continue;
    const EngineCounters counters = replica->engine()->counters();
    served.steps += counters.steps;
    served.wait_ns += counters.part_ns[static_cast<size_t>(StepPart::combine)];
  }
  return served;
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
  if (!replicas_.empty() && replicas_[0]->local_workers()) replicas_[0]->local_workers()->cancel_load();
}

// Refuse new requests, let those under way end, then take everything down in the order of use.
void RouterProcess::stop() {
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }
  for (const auto& replica : replicas_)
    if (replica->engine()) replica->engine()->drain();
  if (http_) http_->stop(kDrainLimit);
  for (const auto& replica : replicas_) replica->stop();
  if (cluster_) cluster_->close();
  control_.stop();
  http_.reset();
  cluster_.reset();
  balancing_.reset();
}

std::vector<WorkerStatus> RouterProcess::worker_status() const {
  if (cluster_) return cluster_->status();
  if (!replicas_.empty() && replicas_[0]->local_workers()) return replicas_[0]->local_workers()->status();
  return {};
}

std::vector<WorkerView> RouterProcess::worker_views() const {
  std::vector<WorkerView> views;
  std::vector<WorkerHoldings> holdings;
  if (cluster_) holdings = cluster_->holdings();
  for (const WorkerStatus& status : worker_status()) {
    const size_t w = views.size();
    WorkerView& view = views.emplace_back(
        WorkerView{.name = status.name, .state = status.state, .resident_bytes = status.resident_bytes});
    if (!cluster_) {
      view.experts_l = placement_.experts_of(static_cast<int32_t>(w));
      view.offload = replicas_[0]->local_workers()->offload(w);
      continue;
    }
    view.experts_l = std::move(holdings[w].experts_l);
    view.offload = holdings[w].loads.offload;
    if (const WorkerLoadSums& sums = holdings[w].loads; sums.runs > 0)
      view.own = {.runs = sums.runs,
                  .weight_bytes = sums.weight_bytes,
                  .sums = {sums.pairs, sums.activations, sums.compute_ns}};
  }
  return views;
}

ServingStatus RouterProcess::serving_status() const {
  const BalanceStatus balancing = balance_status();
  ServingStatus status;
  status.elapsed_s = std::chrono::duration<double>(Clock::now() - started_).count();
  status.router_bytes_done = progress_.bytes_done;
  status.router_bytes_total = progress_.bytes_total;
  status.kv_capacity_tokens = kv_capacity_tokens_;
  status.kv_dtype = config_.router().kv_cache().dtype();
  status.workers = worker_status();
  std::lock_guard lock(mutex_);
  bool all_serve = true;
  if (engines_ready_) {
    status.replicas = front_end_->replicas();
    for (size_t i = 0; i < replicas_.size(); ++i)
      all_serve &= status.replicas[i].serving = replicas_[i]->engine()->serving();
  }
  if (draining_)
    status.state = ServingState::draining;
  else if (!engines_ready_)
    status.state = ServingState::loading;
  else if (all_serve)
    status.state = ServingState::ready, was_ready_ = true;
  else
    status.state = was_ready_ ? ServingState::degraded : ServingState::loading;
  for (const WorkerStatus& w : status.workers)
    if (engines_ready_ && w.state != "ready" && w.state != "loading")
      status.message += w.name + " is " + w.state + ". ";
  if (status.state == ServingState::degraded) {
    const auto silent = [](const auto& replica) { return replica->engine()->why_not_serving().empty(); };
    const auto told = std::ranges::find_if_not(replicas_, silent);
    if (told != replicas_.end()) status.message += (*told)->engine()->why_not_serving() + ".";
  }
  for (const RaisedAlarm& raised : balancing.alarms) status.message += "balancing: " + raised.message + ". ";
  return status;
}

}  // namespace guildhall
