// health_client.h: asks a router's /health; blocking, for operator commands.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/host_port.h"

namespace guildhall {

struct WorkerHealth {
  std::string name, address, state, transport, error;
  int64_t bytes_done = 0, bytes_total = 0, num_experts = 0, resident_bytes = 0;
};

struct ReplicaHealth {
  std::string name, state;
};

struct RouterHealth {
  bool ready = false;
  std::string state, message;
  int64_t kv_capacity_tokens = 0, bytes_done = 0, bytes_total = 0;
  std::vector<WorkerHealth> workers;
  std::vector<ReplicaHealth> replicas;  // empty while it loads
};

// unavailable when nothing answers there yet.
Result<RouterHealth> query_health(const HostPort& address, std::chrono::milliseconds timeout);

}  // namespace guildhall
