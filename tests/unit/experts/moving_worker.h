// moving_worker.h: whole workers on one loopback, each with threads of its own, and routers that say to them
// what the test wants said.
#pragma once

#include <algorithm>
#include <deque>
#include <future>

#include "experts/control_service.h"
#include "kernels/cpu_ops.h"
#include "model/fingerprint.h"
#include "tests/unit/experts/counting_memory.h"
#include "tests/unit/experts/dispatch_frames.h"
#include "tests/unit/transport_control/fixture.h"
#include "transport/loopback.h"

namespace guildhall {

class MovingWorker {
 public:
  MovingWorker(LoopbackFabric& fabric, const std::string& name,
               const std::function<void(ControlServiceOptions&)>& change = {})
      : end_(fabric.make_end(name)),
        worker_(std::make_unique<Worker>(tiny_model(), *end_, make_cpu_ops({}, memory_))),
        serve_([this] { worker_->run(); }),
        work_(io_.get_executor()),
        io_thread_([this] { io_.run(); }) {
    ControlServiceOptions options{.worker_name = name,
                                  .listen = "127.0.0.1:0",
                                  .exchange_kind = "loopback",
                                  .exchange_address = end_->local_address(),
                                  .model_path = tiny_checkpoint(),
                                  .isa = "avx2",
                                  .heartbeat = std::chrono::seconds(10)};
    if (change) change(options);
    on_io([&] {
      service_ = ControlService::start(io_, options, tiny_model(), *worker_, [] {}).value();
      address_ = service_->local_address();
    });
  }
  ~MovingWorker() { die(); }

  // Ends its control plane, then its data plane; what memory it then has in use has leaked.
  void die() {
    if (!worker_) return;
    on_io([&] { service_.reset(); });
    worker_->stop();
    serve_.join();
    worker_.reset();
    end_.reset();
    work_.reset();
    io_.stop();
    io_thread_.join();
    io_.restart();
    io_.poll();  // what was posted goes too
  }

  // Holds the serve thread up, between two rounds, until the gate is opened.
  [[nodiscard]] std::shared_ptr<std::promise<void>> hold_up() {
    auto gate = std::make_shared<std::promise<void>>();
    auto held = std::make_shared<std::promise<void>>();
    worker_->use_weight_links([gate, held](WeightLinks&) {
      held->set_value();
      gate->get_future().wait();
    });
    held->get_future().wait();
    return gate;
  }

  const std::string& address() const { return address_; }
  Worker& worker() { return *worker_; }
  std::string exchange_address() const { return end_->local_address(); }
  int64_t bytes_in_use() const { return memory_.in_use(); }
  control::StatusReply query() const { return query_status(address_, kGuard).value(); }

 private:
  template <class Work>
  void on_io(Work work) {
    std::packaged_task<void()> task(std::move(work));
    boost::asio::post(io_, [&] { task(); });
    task.get_future().get();
  }

  CountingMemory memory_;
  std::unique_ptr<Exchange> end_;
  std::unique_ptr<Worker> worker_;
  std::thread serve_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::thread io_thread_;
  std::unique_ptr<ControlService> service_;
  std::string address_;
};

// Of the tiny model, the same experts in both of its layers.
inline void list_experts(google::protobuf::RepeatedPtrField<control::LayerExperts>& layers,
                         const std::vector<uint32_t>& experts) {
  for (const uint32_t layer : {0, 2}) {
    control::LayerExperts& entry = *layers.Add();
    entry.set_layer(layer);
    for (const uint32_t e : experts) entry.add_experts(e);
  }
}

class MovesRouter {
 public:
  MovesRouter(LoopbackFabric& fabric, const MovingWorker& worker, const std::string& name,
              uint64_t generation)
      : end(fabric.make_end(name)), link_(std::make_unique<RawPeer>(worker.address())) {
    control::Envelope envelope = hello();
    control::Hello& h = *envelope.mutable_hello();
    h.set_router_name(name);
    h.set_exchange_address(end->local_address());
    h.set_exchange_kind("loopback");
    h.set_model_type(tiny_model().model_type);
    h.set_model_fingerprint(fingerprint(tiny_model()));
    h.set_generation(generation);
    link_->write(envelope);
    EXPECT_TRUE(link_->read()->has_hello_reply());
  }
  // What was sent before is heard.
  void hang_up() {
    link_->socket().shutdown(boost::asio::ip::tcp::socket::shutdown_send);
    while (link_->read()) {
    }
    link_.reset();
  }

  void send(const control::Envelope& message) { link_->write(message); }
  void place(const std::vector<uint32_t>& experts) {
    control::Envelope envelope;
    list_experts(*envelope.mutable_placement()->mutable_layers(), experts);
    send(envelope);
  }
  void add(uint64_t move_id, const std::vector<uint32_t>& experts, const std::string& peer_address = "",
           uint64_t bytes_per_s = 0) {
    control::Envelope envelope;
    control::AddExperts& add = *envelope.mutable_add_experts();
    add.set_move_id(move_id);
    list_experts(*add.mutable_layers(), experts);
    add.set_peer_address(peer_address);
    add.set_bytes_per_s(bytes_per_s);
    send(envelope);
  }
  void drop(uint64_t move_id, const std::vector<uint32_t>& experts) {
    control::Envelope envelope;
    envelope.mutable_drop_experts()->set_move_id(move_id);
    list_experts(*envelope.mutable_drop_experts()->mutable_layers(), experts);
    send(envelope);
  }
  void see(uint32_t version) {
    control::Envelope envelope;
    envelope.mutable_holdings_seen()->set_version(version);
    send(envelope);
  }

  control::Holdings next_holdings() { return take(holdings_); }
  // What the holdings list, and that it is the same in both layers.
  std::vector<uint32_t> next_held() {
    const control::Holdings holdings = next_holdings();
    last_version = holdings.version();
    if (holdings.layers_size() == 0) return {};
    EXPECT_EQ(holdings.layers_size(), 2);
    const auto& experts = holdings.layers(0).experts();
    EXPECT_THAT(holdings.layers(1).experts(), ::testing::ElementsAreArray(experts));
    return {experts.begin(), experts.end()};
  }
  control::WorkerLoads next_loads() { return take(loads_); }
  control::MoveStatus next_move_status() { return take(statuses_); }
  // How the move ended.
  control::MoveStatus outcome(uint64_t move_id) {
    for (;;) {
      const control::MoveStatus status = next_move_status();
      if (status.move_id() == move_id && status.state() != control::MoveStatus::RUNNING) return status;
    }
  }
  void await_running(uint64_t move_id) {
    for (;;) {
      const control::MoveStatus status = next_move_status();
      if (status.move_id() == move_id && status.state() == control::MoveStatus::RUNNING) return;
    }
  }

  const std::unique_ptr<Exchange> end;
  uint32_t last_version = 0;  // of next_held()

 private:
  template <class T>
  T take(std::deque<T>& queue) {
    while (queue.empty()) {
      const auto message = link_->read();
      if (!message || message->has_error())
        throw std::runtime_error(message ? message->error().message() : "the worker has hung up");
      if (message->has_holdings()) holdings_.push_back(message->holdings());
      if (message->has_move_status()) statuses_.push_back(message->move_status());
      if (message->has_worker_loads()) loads_.push_back(message->worker_loads());
    }
    T first = std::move(queue.front());
    queue.pop_front();
    return first;
  }

  std::unique_ptr<RawPeer> link_;
  std::deque<control::Holdings> holdings_;
  std::deque<control::MoveStatus> statuses_;
  std::deque<control::WorkerLoads> loads_;
};

}  // namespace guildhall
