#include "tests/unit/moves/moving_cluster.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "kernels/isa.h"
#include "model/fingerprint.h"

namespace guildhall {
namespace {

constexpr std::chrono::seconds kGuard{60};
constexpr std::chrono::seconds kHeartbeat{5};

std::string isa() { return std::string(to_string(current_isa())); }

}  // namespace

IoThread::~IoThread() {
  io_.stop();
  thread_.join();
}

void IoThread::run(std::function<void()> action) {
  std::packaged_task<void()> task(std::move(action));
  auto done = task.get_future();
  boost::asio::post(io_, [&task] { task(); });
  done.get();
}

MovingCluster::MovingCluster(const std::filesystem::path& checkpoint, int num_workers, Hooks hooks)
    : checkpoint_(checkpoint),
      spec_(read_model_spec(checkpoint).value()),
      hooks_(std::move(hooks)),
      members_(static_cast<size_t>(num_workers)),
      address_w_(members_.size(), "127.0.0.1:0"),
      ops_(make_cpu_ops({.num_threads = 1})),
      exchange_(fabric_.make_end("r0")),
      generation_w_(members_.size()) {
  weights_ = DenseWeights::load(checkpoint, spec_, make_shard(spec_, 0, 1).value(), LoadMode::checkpoint,
                                progress_, ops_->memory())
                 .value();
  auto cache = KvCache::create(spec_, {.block_size = 16,
                                       .memory_bytes = 64 << 20,
                                       .max_model_len = spec_.max_position,
                                       .max_tokens = 1 << 14})
                   .value();
  engine_ = std::make_unique<Engine>(engine_options(), spec_, *weights_, *exchange_, std::move(cache), *ops_);
  for (int i = 0; i < num_workers; ++i) start_worker(i);
  std::vector<WorkerAddress> workers;
  for (int i = 0; i < num_workers; ++i)
    workers.push_back({worker_name(i), address_w_[static_cast<size_t>(i)], {}});
  ClusterOptions options{.router_name = "r0",
                         .exchange_kind = "loopback",
                         .exchange_addresses = {exchange_->local_address()},
                         .model_type = spec_.model_type,
                         .model_fingerprint = fingerprint(spec_),
                         .experts = expert_grid(spec_),
                         .combine = Combine::exact,
                         .isa = isa(),
                         .heartbeat = kHeartbeat,
                         .startup_timeout = kGuard};
  cluster_ = std::make_unique<Cluster>(router_io_.io(), options, workers, even_split(spec_, num_workers, 1),
                                       events());
  engine_thread_ = std::thread([this] { engine_->run(); });
  router_io_.run([this] { cluster_->start(); });
}

MovingCluster::~MovingCluster() {
  engine_->stop();
  engine_thread_.join();
  router_io_.run([this] { cluster_->close(); });
  router_io_.run([this] { cluster_.reset(); });
  for (int i = 0; i < num_workers(); ++i) kill_worker(i);
}

EngineOptions MovingCluster::engine_options() {
  EngineOptions options;
  options.name = "r0";
  options.scheduler = {.max_sequences = 8, .max_batched_tokens = 64};
  options.dispatcher = {.experts = expert_grid(spec_),
                        .num_workers = num_workers(),
                        .hidden = spec_.hidden,
                        .top_k = spec_.moe.top_k,
                        .max_tokens = 64,
                        .deadline = kGuard};
  options.max_model_len = spec_.max_position;
  options.recovery_timeout = kGuard;
  options.on_worker_attached = [](int32_t, const std::string&) {};
  options.on_worker_lost = [this](const LostWorker& lost) {
    cluster_->drop(lost.worker, lost.generation, lost.why);
  };
  return options;
}

ClusterEvents MovingCluster::events() {
  const auto taken = [this](int32_t worker, uint64_t generation, const Holdings& holdings) {
    return [=, this] {
      if (hooks_.taken) hooks_.taken(worker, holdings);
      cluster_->acknowledge(worker, generation, holdings.version);
    };
  };
  ClusterEvents events;
  events.on_ready = [=, this](int32_t worker, const std::string& address, uint64_t generation,
                              const Holdings& holdings) {
    generation_w_[static_cast<size_t>(worker)] = generation;
    engine_->attach_worker(worker, worker_name(worker), address, generation, holdings,
                           taken(worker, generation, holdings));
  };
  events.on_holdings = [=, this](int32_t worker, uint64_t generation, const Holdings& holdings) {
    if (hooks_.announced) hooks_.announced(worker, holdings);
    engine_->set_holdings(worker, generation, holdings, taken(worker, generation, holdings));
  };
  events.on_lost = [this](int32_t worker, const Status&) { engine_->detach_worker(worker); };
  events.on_startup_failed = [](const Status& why) { ADD_FAILURE() << to_string(why); };
  return events;
}

std::future<Completion> MovingCluster::submit(EngineRequest request) {
  struct Pending {
    Completion completion;
    std::promise<Completion> promise;
  };
  auto pending = std::make_shared<Pending>();
  auto future = pending->promise.get_future();
  engine_
      ->submit(std::move(request),
               [pending](EngineEvent&& event) {
                 Completion& c = pending->completion;
                 c.tokens.insert(c.tokens.end(), event.tokens.begin(), event.tokens.end());
                 if (!event.finish) return;
                 c.finish = *event.finish;
                 c.error = event.error;
                 pending->promise.set_value(std::move(c));
               })
      .value();
  return future;
}

void MovingCluster::start_worker(int i) {
  Member& member = members_[static_cast<size_t>(i)];
  std::string& address = address_w_[static_cast<size_t>(i)];
  member.exchange = fabric_.make_end(worker_name(i));
  member.worker = std::make_unique<Worker>(spec_, *member.exchange, make_cpu_ops({.num_threads = 1}));
  member.thread = std::thread([worker = member.worker.get()] { worker->run(); });
  worker_io_.run([&] {
    member.service = ControlService::start(worker_io_.io(),
                                           {.worker_name = worker_name(i),
                                            .listen = address,
                                            .exchange_kind = "loopback",
                                            .exchange_address = member.exchange->local_address(),
                                            .model_path = checkpoint_,
                                            .isa = isa(),
                                            .heartbeat = kHeartbeat},
                                           spec_, *member.worker, [] {})
                         .value();
    address = member.service->local_address();
  });
}

void MovingCluster::kill_worker(int i) {
  Member& member = members_[static_cast<size_t>(i)];
  if (!member.worker) return;
  fabric_.kill(worker_name(i));
  worker_io_.run([&] { member.service.reset(); });
  member.worker->stop();
  member.thread.join();
  member.worker.reset();
  member.exchange.reset();
}

void MovingCluster::cut_link(int i) {
  cluster_->drop(i, generation_w_[static_cast<size_t>(i)], {Code::peer_lost, "the test cut the link"});
}

bool MovingCluster::all_ready() const {
  for (const WorkerHoldings& worker : cluster_->holdings())
    if (!worker.ready) return false;
  return engine_->serving();
}

bool MovingCluster::holds(int32_t worker, size_t layer, int32_t expert) const {
  const WorkerHoldings holdings = cluster_->holdings()[static_cast<size_t>(worker)];
  return holdings.ready &&
         std::ranges::find(holdings.experts_l[layer], expert) != holdings.experts_l[layer].end();
}

std::string MovingCluster::not_covered() const {
  std::string names;
  for (size_t layer = 0; layer < spec_.is_moe_layer.size(); ++layer)
    for (int32_t e = 0; spec_.is_moe_layer[layer] && e < spec_.moe.num_experts; ++e) {
      bool held = false;
      for (int32_t w = 0; w < num_workers(); ++w) held |= holds(w, layer, e);
      if (!held) names += fmt::format("layer {} expert {}; ", layer, e);
    }
  return names;
}

bool MovingCluster::await(const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + kGuard;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace guildhall
