// status_board.h: what /health and /v1/models tell: loading progress and readiness. Written by start-up and
// the cluster link, read by HTTP threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

struct ServingStatus {
  ServingState state = ServingState::loading;
  std::string message;  // why not ready
  int64_t router_bytes_done = 0, router_bytes_total = 0;
  std::vector<WorkerStatus> workers;
  int64_t kv_capacity_tokens = 0;
  double elapsed_s = 0;
};

class StatusSource {
 public:
  virtual ~StatusSource() = default;
  virtual ServingStatus serving_status() const = 0;  // any thread
};

}  // namespace guildhall
