#include "tests/unit/balance/synthetic_routing.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace guildhall {
namespace {

class Router {
 public:
  Router(const TraceHeader& header, uint64_t seed) : header_(header), random_(seed) {
    for (size_t i = 0; i < header.moe_layers.size(); ++i) {
      std::vector<int32_t> expert_of_rank(static_cast<size_t>(header.num_experts));
      std::iota(expert_of_rank.begin(), expert_of_rank.end(), 0);
      for (size_t j = expert_of_rank.size(); j > 1; --j)
        std::swap(expert_of_rank[j - 1], expert_of_rank[random_() % j]);
      expert_of_rank_l_.push_back(std::move(expert_of_rank));
    }
    for (int64_t rank = 0; rank < header.num_experts; ++rank)
      total_weight_ += weights_.emplace_back(1'000'000 / static_cast<uint64_t>(rank + 1));
  }

  std::vector<std::vector<ExpertTokens>> route(int64_t tokens) {
    std::vector<std::vector<ExpertTokens>> out(expert_of_rank_l_.size());
    for (size_t layer = 0; tokens > 0 && layer < out.size(); ++layer) {
      std::vector<int32_t> count_e(static_cast<size_t>(header_.num_experts));
      for (int64_t t = 0; t < tokens; ++t)
        for (const size_t rank : top_k()) ++count_e[static_cast<size_t>(expert_of_rank_l_[layer][rank])];
      for (size_t e = 0; e < count_e.size(); ++e)
        if (count_e[e] > 0) out[layer].push_back({static_cast<int32_t>(e), count_e[e]});
    }
    return out;
  }

 private:
  std::vector<size_t> top_k() {
    std::vector<size_t> ranks;
    while (ranks.size() < static_cast<size_t>(header_.top_k)) {
      uint64_t at = random_() % total_weight_;
      size_t rank = 0;
      while (at >= weights_[rank]) at -= weights_[rank++];
      if (std::find(ranks.begin(), ranks.end(), rank) == ranks.end()) ranks.push_back(rank);
    }
    return ranks;
  }

  const TraceHeader& header_;
  std::mt19937_64 random_;
  std::vector<std::vector<int32_t>> expert_of_rank_l_;
  std::vector<uint64_t> weights_;  // by rank
  uint64_t total_weight_ = 0;
};

}  // namespace

TraceHeader small_trace_header() {
  return {.model = "synthetic",
          .num_layers = 6,
          .num_experts = 16,
          .top_k = 2,
          .num_groups = 4,
          .expert_bytes = 6 << 20,
          .expert_params = 3 << 20,
          .moe_layers = {1, 2, 3, 4, 5}};
}

std::vector<TraceStep> synthetic_steps(const TraceHeader& header, const SyntheticRouting& routing) {
  Router router(header, routing.seed);
  std::vector<TraceStep> steps;
  for (int64_t i = 0; i < routing.num_steps; ++i) {
    TraceStep step{.step_id = static_cast<uint64_t>(i),
                   .time_us = static_cast<uint64_t>(i) * routing.step_us,
                   .prefill_tokens = i % routing.prefill_every == 0 ? routing.prefill_tokens : 0,
                   .decode_tokens = routing.decode_tokens};
    step.prefill_le = router.route(step.prefill_tokens);
    step.decode_le = router.route(step.decode_tokens);
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace guildhall
