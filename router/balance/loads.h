// loads.h: what the experts had to do in a window of steps, per layer and expert, and what a replica of one
// gets of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace guildhall {

struct ExpertLoad {
  int64_t prefill_tokens = 0, decode_tokens = 0;
  // Steps that gave it a token, each of which reads its weights once: as dispatches, where they are counted
  // as they happen (a step of two micro-batches may read an expert's weights twice).
  int64_t active_steps = 0;
  int64_t decode_active_steps = 0;  // of these, with a token of a decode

  int64_t tokens() const { return prefill_tokens + decode_tokens; }
  ExpertLoad& operator+=(const ExpertLoad& other) {
    prefill_tokens += other.prefill_tokens, decode_tokens += other.decode_tokens;
    active_steps += other.active_steps, decode_active_steps += other.decode_active_steps;
    return *this;
  }
};

struct Loads {
  int64_t num_steps = 0;
  std::vector<std::vector<ExpertLoad>> load_le;  // [layer][expert]; empty for layers without experts

  // Of the same layers and experts.
  Loads& operator+=(const Loads& other) {
    num_steps += other.num_steps;
    for (size_t layer = 0; layer < load_le.size(); ++layer)
      for (size_t e = 0; e < load_le[layer].size(); ++e) load_le[layer][e] += other.load_le[layer][e];
    return *this;
  }
};

// Steps in which one of `replicas` replicas is touched, when an expert is active in `active` steps with
// `tokens` in all and each token goes to any replica alike: a token misses a replica with 1 - 1/r, a step of
// t = tokens/active tokens with (1 - 1/r)^t.
inline double active_share(double active, double tokens, int32_t replicas) {
  if (active <= 0 || replicas == 1) return active;
  return active * (1 - std::pow(1 - 1.0 / replicas, tokens / active));
}

}  // namespace guildhall
