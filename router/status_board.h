// status_board.h: what /health and /v1/models tell: loading progress and readiness. Written by start-up and
// the cluster link, read by HTTP threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "router/engine_client.h"

namespace guildhall {

enum class ServingState { loading, ready, degraded, draining, failed };

struct WorkerStatus {
  std::string name, address;
  std::string state;  // connecting, loading, ready, lost, failed
  int64_t bytes_done = 0, bytes_total = 0;
  int64_t num_experts = 0, resident_bytes = 0;
  std::string transport;  // what carries frames: "ucx tcp lo"
  std::string error;
};

// Another router, as this one knows it.
struct PeerStatus {
  std::string name, address;
  bool answers = false;
  int64_t outstanding_tokens = 0;
  int64_t num_sent = 0, num_failed = 0;  // requests
};

struct ServingStatus {
  ServingState state = ServingState::loading;
  std::string message;  // why not ready
  int64_t router_bytes_done = 0, router_bytes_total = 0;
  std::vector<WorkerStatus> workers;
  std::vector<ReplicaStatus> replicas;  // empty while loading
  std::vector<PeerStatus> peers;        // filled in by the HTTP server
  int64_t kv_capacity_tokens = 0;
  std::string kv_dtype;  // as configured
  double elapsed_s = 0;
};

class StatusSource {
 public:
  virtual ~StatusSource() = default;
  virtual ServingStatus serving_status() const = 0;  // any thread
};

}  // namespace guildhall
