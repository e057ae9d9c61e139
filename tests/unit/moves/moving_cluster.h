// moving_cluster.h: a router's engine and control links with workers that are real but for their processes:
// each has its exchange over the loopback fabric, a serve thread, and a control service on 127.0.0.1. Experts
// move between them; a worker can be killed and started again on its port, with nothing in its memory.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <future>
#include <memory>
#include <thread>

#include "experts/control_service.h"
#include "kernels/cpu_ops.h"
#include "router/balancer.h"
#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {

// An io_context and its thread.
class IoThread {
 public:
  IoThread() : thread_([this] { io_.run(); }) {}
  ~IoThread();
  boost::asio::io_context& io() { return io_; }
  void run(std::function<void()> action);  // there, and waits for it

 private:
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  std::thread thread_;
};

class MovingCluster {
 public:
  // What comes of announcements, on the router's io thread but for `taken`, which is on the engine's.
  struct Hooks {
    std::function<void(int32_t worker, const Holdings&)> announced, taken;
  };

  MovingCluster(const std::filesystem::path& checkpoint, int num_workers, Hooks hooks = {});
  ~MovingCluster();

  Cluster& cluster() { return *cluster_; }
  Engine& engine() { return *engine_; }
  IoThread& router_io() { return router_io_; }
  const ModelSpec& spec() const { return spec_; }
  int num_workers() const { return static_cast<int>(members_.size()); }

  std::future<Completion> submit(EngineRequest request);

  void start_worker(int i);
  void kill_worker(int i);  // any thread but its own; the caller sees to it that nobody starts it meanwhile
  // The router's control link to it ends.
  void cut_link(int i);

  bool all_ready() const;
  bool holds(int32_t worker, size_t layer, int32_t expert) const;  // announced, by a worker that is ready
  std::string not_covered() const;                                 // experts that no ready worker holds
  // Waits for it, up to a minute; whether it came.
  static bool await(const std::function<bool()>& condition);

 private:
  struct Member {
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Worker> worker;
    std::thread thread;
    std::unique_ptr<ControlService> service;
  };
  static std::string worker_name(int i) { return "w" + std::to_string(i); }
  ClusterEvents events();
  EngineOptions engine_options();

  const std::filesystem::path checkpoint_;
  const ModelSpec spec_;
  const Hooks hooks_;
  LoadProgress progress_;
  LoopbackFabric fabric_;
  IoThread worker_io_, router_io_;
  std::vector<Member> members_;
  std::vector<std::string> address_w_;  // once started: the same ever after
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<DenseWeights> weights_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Cluster> cluster_;
  std::vector<std::atomic<uint64_t>> generation_w_;  // of the newest link
  std::thread engine_thread_;
};

}  // namespace guildhall
