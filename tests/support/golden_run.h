// golden_run.h: what tests ask of golden cases, and what must come of it: transformers' results, within the
// case's tolerance.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <span>
#include <vector>

#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {

inline EngineRequest greedy(std::span<const int32_t> ids, int32_t max_tokens) {
  EngineRequest request;
  request.prompt_ids.assign(ids.begin(), ids.end());
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.num_logprobs = 5;
  request.num_prompt_logprobs = 0;
  return request;
}

// Of everything a completion says.
inline std::vector<uint32_t> bits(const Completion& c) {
  std::vector<uint32_t> out(c.tokens.begin(), c.tokens.end());
  for (const auto* list : {&c.prompt_logprobs, &c.logprobs})
    for (const PositionLogprobs& p : *list) out.push_back(std::bit_cast<uint32_t>(p.chosen.logprob));
  return out;
}

inline void expect_prompt(const GoldenPrompt& expected, const Completion& got, float tolerance) {
  ASSERT_FALSE(got.error.has_value()) << got.error->message;
  ASSERT_EQ(got.prompt_logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < expected.logprobs.size(); ++i) {
    EXPECT_EQ(got.prompt_logprobs[i].chosen.token, expected.ids[i + 1]);
    EXPECT_NEAR(got.prompt_logprobs[i].chosen.logprob, expected.logprobs[i], tolerance)
        << "position " << i + 1;
  }
}

// Greedy continuations, as far as they go, may part ways only where the oracle itself was undecided.
inline void expect_greedy(const GoldenPrompt& expected, const Completion& got, float tolerance) {
  ASSERT_LE(got.tokens.size(), expected.greedy_ids.size());
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    if (got.tokens[i] != expected.greedy_ids[i]) {
      EXPECT_LE(expected.greedy_margins[i], tolerance) << "token " << i;
      return;
    }
    EXPECT_NEAR(got.logprobs[i].chosen.logprob, expected.greedy_logprobs[i], tolerance) << "token " << i;
  }
}

}  // namespace guildhall
