// engine_client.h: the seam between HTTP and the engine. HTTP threads submit and cancel; the engine thread
// runs steps and calls each request's sink. Text lives on the HTTP side: the engine knows token ids only.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/sampling.h"
#include "router/logit_rules.h"
#include "router/routed_experts.h"
#include "router/serving_stats.h"
#include "router/spread.h"
#include "router/step_clock.h"

namespace guildhall {

using RequestId = uint64_t;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// What the model said about one token, before the request's own rules and temperature: its log-probability
// and the most likely alternatives, best first.
struct PositionLogprobs {
  TokenLogprob chosen;
  int32_t rank = 1;  // of it: 1 + how many tokens were more likely
  std::vector<TokenLogprob> top;
};

// One sequence to generate. `n > 1` and lists of prompts are several requests.
struct EngineRequest {
  std::vector<int32_t> prompt_ids;  // 1 .. max_model_len-1 tokens
  SamplingRule sampling;
  LogitRules logit_rules;
  uint64_t seed = 0;
  int32_t max_tokens = 16;              // 0: score the prompt only
  std::vector<int32_t> stop_token_ids;  // eos ids unless ignored; the stop token is reported, then the end
  std::optional<int>
      num_logprobs;  // set: report generated tokens' logprobs with this many alternatives (0..20)
  std::optional<int> num_prompt_logprobs;  // set: report the prompt's
  bool routed_experts = false,
       prompt_routed_experts = false;  // report them, of generated tokens, of the prompt
  int32_t priority = 0;                // lower goes first, and is preempted last
  std::string tenant;                  // who shares the service with others in turn
  std::string cache_salt;              // only requests of the same salt share pages of the KV cache
  std::optional<RequestId> beside;     // another choice of the same prompt: wants the same replica
};

struct EngineEvent {
  // Prompt positions 1..len-1, in order, over one or more events (position 0 has no logprob).
  std::vector<PositionLogprobs> prompt_logprobs;
  std::vector<int32_t> tokens;             // generated since the last event
  std::vector<PositionLogprobs> logprobs;  // parallel to tokens when asked for
  // When asked for, ids of experts, [n, layers, K] (RoutingShape). Those of the passes that `tokens` came of;
  // and of the prompt's tokens, in order, over one or more events: kNotRouted where the KV cache had a token.
  std::vector<uint16_t> routed_experts, prompt_routed_experts;
  int64_t num_cached_tokens = 0;       // of the prompt, that were in the KV cache already
  std::optional<FinishReason> finish;  // set on the last event
  std::optional<Status> error;         // with FinishReason::error
};

// Called on the engine thread; must not block. No call follows the one with `finish`.
using EventSink = std::function<void(EngineEvent&&)>;

struct EngineCounters {
  int64_t running = 0, waiting = 0;
  int64_t kv_pages_total = 0, kv_pages_used = 0;
  int64_t kv_pages_findable = 0;                    // hold blocks that a later prompt may begin with
  int64_t kv_slots_filled = 0, kv_slots_empty = 0;  // token slots of used pages
  int64_t kv_swap_pages_total = 0, kv_swap_pages_used = 0;
  int64_t kv_swap_bytes_out = 0, kv_swap_bytes_in = 0;
  int64_t kv_spill_slots_total = 0, kv_spill_slots_used = 0;  // pages of the spill file; none: it is off
  int64_t kv_spill_bytes_written = 0, kv_spill_bytes_read = 0;
  int64_t kv_spill_pages_written = 0, kv_spill_pages_read = 0;
  int64_t kv_spill_pages_dropped = 0, kv_spill_pages_damaged = 0;
  int64_t kv_spill_hits = 0;                    // requests that waited for pages and got some
  int64_t prefix_queries = 0, prefix_hits = 0;  // requests
  int64_t prefix_tokens_looked_up = 0, prefix_tokens_found = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0, steps = 0;
  int64_t preemptions_recompute = 0, preemptions_swap = 0;
  int64_t experts_touched = 0;                          // distinct (layer, expert) pairs, summed over steps
  int64_t step_ns = 0, kernel_ns = 0, exchange_ns = 0;  // sums; the rest of step_ns is overhead
  std::array<int64_t, kNumStepParts> part_ns{};         // sums by StepPart
  std::array<int64_t, 2> steps_by_micro_batches{};      // of one, of two
  int64_t dispatches = 0, pairs = 0, bytes_sent = 0, bytes_received = 0, stale_frames = 0;  // of the exchange
  ServingStats serving;  // histograms of requests and steps
};

// One of several engines behind a client, for people.
struct ReplicaStatus {
  std::string name;  // "r0/1"
  bool serving = false;
  int64_t outstanding_tokens = 0;  // router/spread.h
  EngineCounters counters;
};

class EngineClient {
 public:
  virtual ~EngineClient() = default;
  // Any thread. Errors: invalid_argument (prompt too long or empty), resource_exhausted (queue full),
  // unavailable (loading, draining, or a worker is lost).
  virtual Result<RequestId> submit(EngineRequest request, EventSink sink) = 0;
  // Any thread. The sink gets one last event (cancelled), unless it already finished.
  virtual void cancel(RequestId id) = 0;
  // Any thread. cancel() by a caller that has all it wanted (a stop string): counted as a request that
  // stopped.
  virtual void complete(RequestId id) { cancel(id); }
  virtual EngineCounters counters() const = 0;  // of all replicas together
  // Any thread. What the ids of a token's routed experts are.
  virtual RoutingShape routing() const { return {}; }
  // Any thread. A worker is away, and a request would wait until it is back.
  virtual bool paused() const { return false; }
  // Any thread. What the request would meet now (router/spread.h).
  virtual SpreadCandidate preview(const EngineRequest&) { return {}; }
};

}  // namespace guildhall
