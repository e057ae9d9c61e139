// control_service.h: a worker's side of the control plane: answers hellos, loads the experts a router places
// here, announces what it holds and moves it on request (expert_moves.h), reports progress, load and status,
// drains. Owner: the io thread; loading runs on threads of its own.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "experts/cold_experts.h"
#include "experts/worker.h"
#include "model/spec.h"
#include "model/weights.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

struct ControlServiceOptions {
  std::string worker_name;
  std::string listen;  // host:port
  std::string exchange_kind, exchange_address;
  std::filesystem::path model_path;
  LoadMode load_mode = LoadMode::checkpoint;
  int64_t memory_limit = 0;                 // bytes of experts; 0: none
  double memory_margin = 0;                 // part of a device's memory that they leave free
  OffloadMode offload = OffloadMode::none;  // told to routers, whether it is another
  std::string isa;
  std::chrono::nanoseconds heartbeat{};
  // For another worker to be reached, and for each of its answers: above what a busy one needs for a step.
  std::chrono::nanoseconds peer_deadline = std::chrono::seconds(10);
};

class ControlService {
 public:
  // `spec` and `worker` are borrowed. `on_drain` is called on the io thread when a peer asks to drain.
  static Result<std::unique_ptr<ControlService>> start(boost::asio::io_context& io,
                                                       ControlServiceOptions options, const ModelSpec& spec,
                                                       Worker& worker, std::function<void()> on_drain);
  ~ControlService();  // cancels a load under way

  std::string local_address() const;

 private:
  struct Impl;
  explicit ControlService(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace guildhall
