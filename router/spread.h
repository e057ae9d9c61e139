// spread.h: to whom a request goes, of several that could serve it. Pure; one formula for the replicas of a
// process and for peer routers:
//
//   score = outstanding_tokens + handicap - min(found_tokens, prefix_affinity)         the least is first
//
// Outstanding tokens of a request are what is still to be computed of it: its prompt, until its first token,
// and of its answer min(max_tokens, kExpectedTokens) less what was generated, but at least 1. So load
// decides, and a prefix outweighs as many outstanding tokens as it saves, up to a bound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace guildhall {

// What is asked for is often far more than what comes: an answer counts as no longer than this.
inline constexpr int64_t kExpectedTokens = 512;

// What a request would meet somewhere.
struct SpreadCandidate {
  int64_t outstanding_tokens = 0;
  int64_t found_tokens = 0;  // leading tokens of the prompt that it is believed to hold
  int64_t handicap = 0;      // tokens: what it costs to go there
};

// Candidates, best first. Of equal score: who holds more, then who has less outstanding, then the first.
std::vector<size_t> rank_candidates(std::span<const SpreadCandidate> candidates, int64_t prefix_affinity);

}  // namespace guildhall
