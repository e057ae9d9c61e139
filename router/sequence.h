// sequence.h: one request inside the engine: its tokens, its pages, and how far it got. Owner: the engine
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "router/engine_client.h"
#include "router/prefix_key.h"

namespace guildhall {

struct Sequence {
  RequestId id = 0;
  EngineRequest request;
  EventSink sink;
  RequestTimes times;

  std::vector<int32_t> tokens;      // prompt, then generated
  std::optional<LogitEdits> edits;  // for the next token, where the request asks for any
  int64_t num_computed = 0;         // leading tokens whose keys and values are in the cache
  int64_t num_prompt_scored = 0;    // prompt positions whose log-probabilities were reported
  int64_t num_prompt_routed = 0;    // leading ones whose experts were reported
  std::vector<int32_t> pages;       // the block table

  // Prefix caching: the keys of leading full blocks, as far as they were needed. Of the pages, the first
  // num_published can be found by others; the keys from there to num_announced are announced.
  std::vector<PrefixKey> keys;
  int64_t num_published = 0, num_announced = 0;
  // The key of the prompt's last block, full or not, if more than its last token may be shared.
  std::optional<PrefixKey> tail;
  bool tail_announced = false;
  int64_t num_found_tokens = 0;  // of the prompt, that were in the cache when it was first admitted
  bool was_admitted = false;
  bool has_read = false;  // from the spill file, or tried to, since it last ran

  // What page_swap.h keeps of it while it waits, preempted: keys and values of its first num_tokens tokens,
  // of the first num_keys blocks by their keys and of those after them in host pages of its own.
  struct Kept {
    int64_t num_tokens = 0, num_keys = 0;
    std::vector<int32_t> slots;
  } kept;

  int64_t prompt_len() const { return static_cast<int64_t>(request.prompt_ids.size()); }
  int64_t num_generated() const { return static_cast<int64_t>(tokens.size()) - prompt_len(); }
  int64_t num_pending() const { return static_cast<int64_t>(tokens.size()) - num_computed; }
  bool wants_prompt_scores() const { return request.num_prompt_logprobs.has_value(); }
};

}  // namespace guildhall
