// cluster.h: the router's control links to its workers: greets each one, sends it its placement, follows its
// loading, and dials again when it is lost. Owner: the io thread; status() and drop() are for any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/exchange.h"
#include "router/placement.h"
#include "router/status_board.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

struct ClusterOptions {
  std::string router_name;
  std::string exchange_kind;
  std::vector<std::string> exchange_addresses;  // of each replica: one link serves them all
  std::string model_type;
  uint64_t model_fingerprint = 0;
  Combine combine = Combine::exact;
  std::string isa;
  std::chrono::nanoseconds heartbeat{}, startup_timeout{};
};

struct WorkerAddress {
  std::string name, address;  // control plane host:port
  RowCodecs codecs;
};

// Called on the io thread.
struct ClusterEvents {
  // The worker holds its experts and has connected to our exchanges; `generation` names this link.
  std::function<void(int32_t worker, const std::string& exchange_address, uint64_t generation)> on_ready;
  std::function<void(int32_t worker, const Status& why)> on_lost;
  // A worker that was never ready cannot be: not reached within startup_timeout, or it refused us.
  std::function<void(const Status& why)> on_startup_failed;
};

class Cluster {
 public:
  Cluster(boost::asio::io_context& io, ClusterOptions options, std::vector<WorkerAddress> workers,
          Placement placement, ClusterEvents events);
  ~Cluster();

  void start();
  // The data plane lost this worker on the link `generation`: closes its control link and dials anew. Nothing
  // when that has happened meanwhile.
  void drop(int32_t worker, uint64_t generation, const Status& why);
  // What carries its frames, for people.
  void set_transport(int32_t worker, std::string description);
  void close();  // for good: closes every link

  std::vector<WorkerStatus> status() const;

 private:
  class Peer;
  std::vector<std::shared_ptr<Peer>> peers_;
};

}  // namespace guildhall
