// cluster.h: the router's control links to its workers: greets each one, asks it to load its share, follows
// what it announces that it holds, has experts moved, and dials again when it is lost. What workers announce
// is the placement: one that holds something else than it was asked to load is taken as it is, and one that
// comes back empty is asked to load what it held before.
// Owner: the io thread; methods are for any thread, start() for the io thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/exchange.h"
#include "router/offload_sums.h"
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
  ExpertGrid experts;
  Combine combine = Combine::exact;
  std::string isa;
  std::chrono::nanoseconds heartbeat{}, startup_timeout{};
};

struct WorkerAddress {
  std::string name, address;  // control plane host:port
  RowCodecs codecs;
};

// Called on the io thread. `generation` names the link.
struct ClusterEvents {
  // The worker has connected to our exchanges and may be asked for what it holds. acknowledge() when nothing
  // else is asked of it; so for what it holds from then on.
  std::function<void(int32_t worker, const std::string& exchange_address, uint64_t generation,
                     const Holdings& holdings)>
      on_ready;
  std::function<void(int32_t worker, uint64_t generation, const Holdings& holdings)> on_holdings;
  std::function<void(int32_t worker, const Status& why)> on_lost;
  // A worker that was never ready cannot be: not reached within startup_timeout, or it refused us.
  std::function<void(const Status& why)> on_startup_failed;
};

// What a worker's process has done since it began.
struct WorkerLoadSums {
  int64_t runs = 0;         // of the experts of one layer
  int64_t pairs = 0;        // (token, expert)
  int64_t activations = 0;  // experts run, summed over runs
  int64_t compute_ns = 0;
  int64_t weight_bytes = 0;            // read by activations
  std::optional<OffloadSums> offload;  // of a worker that offloads
};

// A worker that is not ready: what it held last.
struct WorkerHoldings {
  bool ready = false;
  uint32_t version = 0;
  ExpertsOfLayer experts_l;
  WorkerLoadSums loads;
};

struct MoveRequest {
  int32_t worker = 0;  // brings these in, beside what it holds
  ExpertsOfLayer experts_l;
  std::optional<int32_t> from_worker;  // that holds them; none: from the checkpoint
  int64_t bytes_per_s = 0;             // at most; 0: no bound
};

struct MoveOutcome {
  Result<void> result;
  int64_t bytes = 0;
  std::chrono::nanoseconds duration{};
};
using MoveDone = std::function<void(const MoveOutcome&)>;

inline constexpr size_t kMaxMoves = 1024;  // under way per worker; more end with resource_exhausted

class WorkerLink;

class Cluster {
 public:
  Cluster(boost::asio::io_context& io, ClusterOptions options, std::vector<WorkerAddress> workers,
          const Placement& placement, ClusterEvents events);
  ~Cluster();

  void start();
  // The data plane lost this worker on the link `generation`: closes its control link and dials anew. Nothing
  // when that has happened meanwhile.
  void drop(int32_t worker, uint64_t generation, const Status& why);
  // No frame sent from now on asks for an expert outside of the announcement of that version.
  void acknowledge(int32_t worker, uint64_t generation, uint32_t version);
  // What carries its frames, for people.
  void set_transport(int32_t worker, std::string description);
  void close();  // for good: closes every link

  // The worker announces what it gained before it is done, and what it lost at once; that is done when no
  // router asks for it any more. `done` is called once, on the io thread; with peer_lost when the worker is
  // not there, or is lost meanwhile: what it holds then, it announces when it is back.
  void add_experts(MoveRequest request, MoveDone done);
  void drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done);

  std::vector<WorkerHoldings> holdings() const;
  std::vector<WorkerStatus> status() const;

 private:
  WorkerLink& link(int32_t worker) const { return *links_[static_cast<size_t>(worker)]; }

  std::vector<std::shared_ptr<WorkerLink>> links_;  // [W]
  std::atomic<uint64_t> next_move_id_{1};
};

}  // namespace guildhall
