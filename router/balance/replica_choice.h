// replica_choice.h: which replica of an expert serves one token. Pure: the same key, replicas and loads give
// the same replica, so that a recomputed request takes the same way; its bits do not depend on it anyway.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/status.h"
#include "router/balance/replica_placement.h"

namespace guildhall {

enum class ReplicaChoice {
  hash,          // by the token's key alone; a replica more or less leaves most tokens where they were
  least_loaded,  // the one whose worker is done earliest
  nearest,       // the one at the least distance
  power_of_two,  // of two taken by hash, the less loaded
};

std::string_view to_string(ReplicaChoice choice);
Result<ReplicaChoice> parse_replica_choice(std::string_view name);

// What the hash is of.
struct TokenKey {
  uint64_t seed = 0;      // the request's
  uint64_t position = 0;  // in the sequence
  int32_t layer = 0, expert = 0;
};

// What is known of the workers, indexed by worker. Only what the policy asks for is read.
struct ReplicaCosts {
  std::span<const double> load_w;       // pairs given to it in this step so far / its speed
  std::span<const int32_t> distance_w;  // 0: this process, 1: this node, 2: beyond; any order works
};

// An index into `replicas`, which is not empty. Ties go by hash.
size_t choose_replica(ReplicaChoice choice, const TokenKey& key, std::span<const Replica> replicas,
                      const ReplicaCosts& costs);

}  // namespace guildhall
