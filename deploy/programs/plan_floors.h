// plan_floors.h: what a step moves, in expectation: experts' weights that it reads, and bytes that a token's
// rows take on the wire (proto/WIRE.md, 1.6). Estimates: every expert is taken to be chosen as often, by each
// token for itself; where some are hot, steps touch fewer. Pure.
#pragma once

#include <cstdint>
#include <span>

#include "proto/exchange.h"

namespace guildhall {

struct GateShape {
  int64_t num_experts = 0, top_k = 0;
};

// Experts of one layer that `num_tokens` touch: E * (1 - (1 - k/E)^b).
double expected_experts(const GateShape& gate, int64_t num_tokens);

// Workers that one token's choices lie on, worker w holding experts_w[w] of the layer: the sum over workers
// of the probability that k of E, drawn without putting back, are not all elsewhere.
double expected_workers(const GateShape& gate, std::span<const int64_t> experts_w);

// Of one token in one layer.
struct WireBytes {
  double out = 0, back = 0;
};
WireBytes wire_bytes(const GateShape& gate, RowCodecs codecs, Combine combine, int64_t hidden,
                     double num_workers);

}  // namespace guildhall
