// front_end.h: the replicas of a process as one engine: spreads requests by least outstanding tokens with
// prefix affinity (spread.h), sends a cancellation to where its request is, and adds counters up. A replica
// that refuses because it is full, or does not serve, is passed over: only when all refuse is the request
// refused. One that is paused is the last choice, here and for peers. Any thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "router/engine_client.h"
#include "router/prefix_table.h"
#include "router/spread.h"

namespace guildhall {

struct FrontEndOptions {
  std::vector<std::string> names;  // of the replicas
  int64_t block_size = 16;         // of the KV cache: what a prefix key covers
  int64_t prefix_affinity = 2048;  // tokens
  bool has_peers = false;          // preview() is asked
};

class FrontEnd final : public EngineClient {
 public:
  // Borrowed; in the order of options.names. They must have ended before this does: their requests' sinks
  // keep count here.
  FrontEnd(FrontEndOptions options, std::span<EngineClient* const> replicas);

  Result<RequestId> submit(EngineRequest request, EventSink sink) override;
  void cancel(RequestId id) override;
  void complete(RequestId id) override;
  EngineCounters counters() const override;
  RoutingShape routing() const override { return replicas_[0]->engine->routing(); }
  SpreadCandidate preview(const EngineRequest& request) override;

  int64_t outstanding_tokens() const;
  std::vector<ReplicaStatus> replicas() const;  // `serving` is not known here

 private:
  struct Replica {
    EngineClient* engine = nullptr;
    std::string name;
    // Shared with the sinks of its requests, which end when its engine lets go of them.
    std::shared_ptr<std::atomic<int64_t>> outstanding_tokens = std::make_shared<std::atomic<int64_t>>(0);
    PrefixTable prefixes;  // under mutex_

    Replica(EngineClient* engine, std::string name);
  };
  class Claim;

  std::vector<PrefixKey> prefix_keys(const EngineRequest& request) const;
  std::vector<SpreadCandidate> candidates(std::span<const PrefixKey> keys);
  std::vector<size_t> rank(const EngineRequest& request, std::span<const PrefixKey> keys);
  Status refusal(const Status& last) const;

  const FrontEndOptions options_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::mutex mutex_;
};

}  // namespace guildhall
