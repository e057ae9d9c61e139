// synthetic_routing.h: routing traces with hot experts, from a seed, in whole numbers only: the same bytes on
// every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "router/balance/trace_file.h"

namespace guildhall {

struct SyntheticRouting {
  int64_t num_steps = 24;
  int64_t decode_tokens = 16;    // per step
  int64_t prefill_tokens = 128;  // in every prefill_every-th step
  int64_t prefill_every = 10;
  uint64_t step_us = 20'000;
  uint64_t seed = 1;
};

// Six layers (the first without experts), 16 experts in 4 groups, top-2.
TraceHeader small_trace_header();

// Tokens prefer experts as 1/(rank + 1), with another order of ranks in each layer.
std::vector<TraceStep> synthetic_steps(const TraceHeader& header, const SyntheticRouting& routing);

}  // namespace guildhall
