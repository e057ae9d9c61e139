#include "router/spread.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace guildhall {

std::vector<size_t> rank_candidates(std::span<const SpreadCandidate> candidates, int64_t prefix_affinity) {
  std::vector<size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) {
    const SpreadCandidate& c = candidates[i];
    const int64_t score = c.outstanding_tokens + c.handicap - std::min(c.found_tokens, prefix_affinity);
    return std::tuple(score, -c.found_tokens, c.outstanding_tokens, i);
  });
  return order;
}

}  // namespace guildhall
