// plan_memory.h: what every process of a configuration takes of which memory, added up from config.json and
// the files' headers before a weight is read, and what of it does not fit. Sizes are those that the daemons
// compute themselves; what they only find out by running is an estimate and marked as one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/spec.h"
#include "proto/config.pb.h"

namespace guildhall {

// Where a router's dense layers or a worker's experts will be, as far as is known.
struct PlannedDevice {
  bool is_gpu = false;
  int64_t total_bytes = 0;  // 0: unknown
  std::string from;         // what says so: "--worker-memory", "this host"
  std::string pool;         // processes of one name share that memory; empty: each has its own
  int64_t host_bytes = 0;   // of a GPU's host, if known; its pool is "this host"
};

struct PlannedDevices {
  std::vector<PlannedDevice> router_r, worker_w;  // in the file's order
};

struct MemoryItem {
  std::string what;
  int64_t bytes = 0;
  bool is_estimate = false;
};

// What one process takes of one memory.
struct MemoryNeed {
  std::string process;  // "r0", "r0 rank 1", "w0"
  std::string where;    // "host", "GPU"
  size_t pool_idx = 0;  // of ClusterPlan::pools
  std::vector<MemoryItem> items;

  int64_t total_bytes() const;
};

struct MemoryPool {
  std::string name;
  int64_t limit_bytes = 0;  // 0: unknown
  std::string from;
  int64_t needed_bytes = 0;

  bool fits() const { return limit_bytes == 0 || needed_bytes <= limit_bytes; }
};

struct RouterPlan {
  std::string name;
  int64_t num_replicas = 1, num_ranks = 1;
  int64_t weights_bytes = 0;  // of all ranks
  int64_t max_model_len = 0;
  int64_t token_bytes = 0;                 // of the KV cache, on the rank where they are most
  std::optional<int64_t> capacity_tokens;  // of each replica; none: measured at start
  // What its memory, or the GPU of the rank that has least, leaves for the caches of all replicas; none:
  // unknown.
  std::optional<int64_t> kv_room_bytes;
};

struct WorkerPlan {
  std::string name;
  int64_t share = 0;                    // experts of each layer when all are split evenly
  int64_t slots = 0;                    // of each layer, redundant ones included
  int64_t most_slots = 0;               // that its memory holds, as many as there are experts at most
  std::optional<int64_t> usable_bytes;  // of its memory, for experts; none: no limit is known
};

struct ClusterPlan {
  int64_t num_moe_layers = 0;
  int64_t one_expert_bytes = 0, all_experts_bytes = 0;
  std::vector<RouterPlan> routers;
  std::vector<WorkerPlan> workers;
  std::vector<MemoryNeed> needs;
  std::vector<MemoryPool> pools;
  std::vector<std::string> problems;  // what does not fit, with the arithmetic

  bool fits() const { return problems.empty(); }
  int64_t slots() const;       // of one layer, over all workers
  int64_t most_slots() const;  // the same, of what their memory holds
};

// Errors are what daemons would refuse whatever memory there is.
Result<ClusterPlan> plan_memory(const config::Config& config, const ModelSpec& spec,
                                const PlannedDevices& devices);

// "w0, w1, w2 and 5 more".
std::string list_names(std::span<const std::string> names);

// Slots of all of a router's links to one worker (transport.slots), at either end; 0 without links.
int64_t slot_bytes(const config::Config& config);

}  // namespace guildhall
