// golden_test.cc: the whole model in one process against transformers, and against itself: the same bits
// whatever the number of workers, the batch, the chunking, the micro-batches or a preemption.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

EngineRequest greedy(const std::vector<int32_t>& ids, int32_t max_tokens) {
  EngineRequest request;
  request.prompt_ids = ids;
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.num_logprobs = 5;
  request.num_prompt_logprobs = 0;
  return request;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  const GoldenCase golden_ = read_golden_case(GetParam());
};

// Greedy continuations may part ways only where the oracle itself was undecided.
void expect_greedy(const GoldenPrompt& expected, const Completion& got, float tolerance) {
  ASSERT_EQ(got.tokens.size(), expected.greedy_ids.size());
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    if (got.tokens[i] != expected.greedy_ids[i]) {
      EXPECT_LE(expected.greedy_margins[i], tolerance) << "token " << i;
      return;
    }
    EXPECT_NEAR(got.logprobs[i].chosen.logprob, expected.greedy_logprobs[i], tolerance) << "token " << i;
  }
}

TEST_P(Golden, AgreesWithTransformers) {
  LocalEngine engine(golden_.path, {.num_workers = 2});
  float worst = 0;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    SCOPED_TRACE(testing::Message() << "prompt of " << prompt.ids.size());
    const Completion got = engine.run(greedy(prompt.ids, static_cast<int32_t>(prompt.greedy_ids.size())));
    ASSERT_FALSE(got.error.has_value()) << got.error->message;
    ASSERT_EQ(got.prompt_logprobs.size(), prompt.logprobs.size());
    for (size_t i = 0; i < prompt.logprobs.size(); ++i) {
      EXPECT_EQ(got.prompt_logprobs[i].chosen.token, prompt.ids[i + 1]);
      EXPECT_NEAR(got.prompt_logprobs[i].chosen.logprob, prompt.logprobs[i], golden_.tolerance)
          << "position " << i + 1;
      worst = std::max(worst, std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]));
    }
    for (size_t i = 0; i < 5; ++i)
      EXPECT_NEAR(got.logprobs[0].top[i].logprob, prompt.top5_logprobs[i], golden_.tolerance);
    expect_greedy(prompt, got, golden_.tolerance);
  }
  RecordProperty("worst_logprob_error", std::to_string(worst));
}

// Bits of everything a completion says.
std::vector<uint32_t> bits(const Completion& c) {
  std::vector<uint32_t> out(c.tokens.begin(), c.tokens.end());
  for (const auto* list : {&c.prompt_logprobs, &c.logprobs})
    for (const PositionLogprobs& p : *list) out.push_back(std::bit_cast<uint32_t>(p.chosen.logprob));
  return out;
}

std::vector<uint32_t> run_alone(const GoldenCase& golden, const LocalEngineOptions& options,
                                const EngineRequest& r) {
  LocalEngine engine(golden.path, options);
  return bits(engine.run(r));
}

TEST_P(Golden, BitsDoNotDependOnWorkersChunksThreadsOrBlocks) {
  const EngineRequest request = greedy(golden_.prompts.back().ids, 24);
  const auto reference = run_alone(golden_, {.num_workers = 1}, request);
  EXPECT_EQ(run_alone(golden_, {.num_workers = 3}, request), reference);
  EXPECT_EQ(run_alone(golden_, {.num_workers = 2, .max_batched_tokens = 7}, request), reference);
  EXPECT_EQ(run_alone(golden_, {.num_workers = 2, .num_threads = 1, .block_size = 5}, request), reference);
}

TEST_P(Golden, BitsDoNotDependOnWorkersWhenRowsAndCacheAreRounded) {
  const EngineRequest request = greedy(golden_.prompts.back().ids, 24);
  const LocalEngineOptions one{.num_workers = 1, .codec = Codec::bf16, .kv_dtype = DType::bf16};
  const LocalEngineOptions three{
      .num_workers = 3, .max_batched_tokens = 33, .codec = Codec::bf16, .kv_dtype = DType::bf16};
  EXPECT_EQ(run_alone(golden_, three, request), run_alone(golden_, one, request));
}

TEST_P(Golden, BitsDoNotDependOnTheCrowdOrOnPreemption) {
  const auto& prompts = golden_.prompts;
  std::vector<EngineRequest> requests;
  for (size_t i = 0; i < 16; ++i) {
    EngineRequest r = greedy(prompts[i % prompts.size()].ids, 20 + static_cast<int32_t>(i));
    if (i % 3 == 0) r.sampling = {.temperature = 0.9f, .top_p = 0.95f}, r.seed = i;
    requests.push_back(std::move(r));
  }
  std::vector<std::vector<uint32_t>> alone;
  {
    LocalEngine engine(golden_.path, {});
    for (const EngineRequest& r : requests) alone.push_back(bits(engine.run(r)));
  }
  const auto in_crowd = [&](const LocalEngineOptions& options) -> EngineCounters {
    LocalEngine engine(golden_.path, options);
    std::vector<std::future<Completion>> pending;
    for (const EngineRequest& r : requests) pending.push_back(engine.submit(r));
    for (size_t i = 0; i < pending.size(); ++i)
      EXPECT_EQ(bits(pending[i].get()), alone[i]) << "request " << i;
    return engine.engine().counters();
  };
  EXPECT_EQ(in_crowd({.num_workers = 3}).preemptions, 0);
  EXPECT_GT(in_crowd({.num_workers = 1, .max_batched_tokens = 40, .kv_tokens = 400}).preemptions, 0);
  const EngineCounters divided =
      in_crowd({.num_workers = 2, .worker_threads = true, .micro_batches = MicroBatches::two});
  EXPECT_GT(divided.steps_by_micro_batches[1], divided.steps_by_micro_batches[0]);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Golden, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace guildhall
