// golden_test.cc: the whole model in one process against transformers, and against itself: the same bits
// whatever the number of workers, the batch, the chunking, the micro-batches or a preemption; and for each
// number of ranks of tensor parallelism.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/golden_run.h"
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  const GoldenCase golden_ = read_golden_case(GetParam());
};

// The largest difference of a prompt's log-probabilities.
float expect_agrees(const GoldenCase& golden, const LocalEngineOptions& options) {
  LocalEngine engine(golden.path, options);
  float worst = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    SCOPED_TRACE(testing::Message() << "prompt of " << prompt.ids.size());
    const Completion got = engine.run(greedy(prompt.ids, static_cast<int32_t>(prompt.greedy_ids.size())));
    expect_prompt(prompt, got, golden.tolerance);
    EXPECT_EQ(got.tokens.size(), prompt.greedy_ids.size());
    if (::testing::Test::HasFailure()) return worst;
    for (size_t i = 0; i < prompt.logprobs.size(); ++i)
      worst = std::max(worst, std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]));
    for (size_t i = 0; i < 5; ++i)
      EXPECT_NEAR(got.logprobs[0].top[i].logprob, prompt.top5_logprobs[i], golden.tolerance);
    expect_greedy(prompt, got, golden.tolerance);
  }
  return worst;
}

TEST_P(Golden, AgreesWithTransformers) {
  const float worst = expect_agrees(golden_, {.num_workers = 2});
  RecordProperty("worst_logprob_error", std::to_string(worst));
}

TEST_P(Golden, RanksAgreeWithTransformers) {
  const float worst = expect_agrees(golden_, {.num_workers = 2, .num_threads = 1, .num_ranks = 2});
  RecordProperty("worst_logprob_error", std::to_string(worst));
}

std::vector<uint32_t> run_alone(const GoldenCase& golden, const LocalEngineOptions& options,
                                const EngineRequest& r) {
  LocalEngine engine(golden.path, options);
  return bits(engine.run(r));
}

class GoldenOverRanks : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  const GoldenCase golden_ = read_golden_case(std::get<0>(GetParam()));
  const int num_ranks_ = std::get<1>(GetParam());
};

TEST_P(GoldenOverRanks, BitsDoNotDependOnWorkersChunksThreadsOrBlocks) {
  const EngineRequest request = greedy(golden_.prompts.back().ids, 24);
  const auto run = [&](LocalEngineOptions options) {
    options.num_ranks = num_ranks_;
    return run_alone(golden_, options, request);
  };
  const auto reference = run({.num_workers = 1});
  EXPECT_EQ(run({.num_workers = 3}), reference);
  EXPECT_EQ(run({.num_workers = 2, .max_batched_tokens = 7}), reference);
  EXPECT_EQ(run({.num_workers = 2, .num_threads = 1, .block_size = 5}), reference);
}

// A sum of K terms, taken apart, moves by at most some K epsilons of its terms' sizes: 1e-5 of K = 100, and
// these models have three layers of some dozens of terms. (An expert chosen otherwise would move it by whole
// units.)
TEST_P(Golden, AnyNumberOfRanksMovesLogprobsByRoundingOnly) {
  const EngineRequest request = greedy(golden_.prompts[2].ids, 8);
  LocalEngine alone(golden_.path, {.num_threads = 1});
  const Completion want = alone.run(request);
  const int most =
      static_cast<int>(std::visit([](const auto& a) { return a.num_heads; }, alone.spec().attention));
  for (int num_ranks = 2; num_ranks <= most; ++num_ranks) {
    LocalEngine engine(golden_.path, {.num_threads = 1, .num_ranks = num_ranks});
    const Completion got = engine.run(request);
    EXPECT_EQ(got.tokens, want.tokens) << num_ranks << " ranks";
    for (size_t i = 0; i < want.prompt_logprobs.size(); ++i)
      EXPECT_NEAR(got.prompt_logprobs[i].chosen.logprob, want.prompt_logprobs[i].chosen.logprob, 1e-4)
          << num_ranks << " ranks, position " << i + 1;
  }
}

TEST_P(Golden, BitsDoNotDependOnWorkersWhenRowsAndCacheAreRounded) {
  const EngineRequest request = greedy(golden_.prompts.back().ids, 24);
  for (const auto& [codecs, kv_dtype] :
       {std::pair{RowCodecs{Codec::bf16, Codec::bf16}, DType::bf16},
        std::pair{RowCodecs{Codec::fp8, Codec::bf16}, DType::bf16}, std::pair{RowCodecs{}, DType::e4m3},
        std::pair{RowCodecs{Codec::fp8, Codec::fp8}, DType::int8}}) {
    const LocalEngineOptions one{.num_workers = 1, .codecs = codecs, .kv_dtype = kv_dtype};
    const LocalEngineOptions three{
        .num_workers = 3, .max_batched_tokens = 33, .codecs = codecs, .kv_dtype = kv_dtype};
    EXPECT_EQ(run_alone(golden_, three, request), run_alone(golden_, one, request));
  }
}

TEST_P(Golden, ReducedIsAsCloseAsExactAndItsBitsDependOnThePlacementOnly) {
  const GoldenPrompt& prompt = golden_.prompts.back();
  const EngineRequest request = greedy(prompt.ids, 24);
  for (const int num_workers : {1, 2, 3}) {
    LocalEngine engine(golden_.path, {.num_workers = num_workers, .combine = Combine::reduced});
    const Completion got = engine.run(request);
    for (size_t i = 0; i < prompt.logprobs.size(); ++i)
      ASSERT_NEAR(got.prompt_logprobs[i].chosen.logprob, prompt.logprobs[i], golden_.tolerance);
    for (const int64_t chunk : {64, 33})
      EXPECT_EQ(
          run_alone(golden_,
                    {.num_workers = num_workers, .max_batched_tokens = chunk, .combine = Combine::reduced},
                    request),
          bits(got))
          << num_workers << " workers, chunks of " << chunk;
  }
}

// The mean difference over a prompt's log-probabilities.
double mean_difference(const GoldenPrompt& prompt, const Completion& got) {
  EXPECT_EQ(got.prompt_logprobs.size(), prompt.logprobs.size());
  double sum = 0;
  for (size_t i = 0; i < prompt.logprobs.size(); ++i)
    sum += std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]);
  return sum / static_cast<double>(prompt.logprobs.size());
}

// These checkpoints' random weights make near-ties between experts common, and one expert chosen otherwise
// moves a log-probability by whole units: so the mean over a prompt is bounded, at some three times what was
// measured (README, Precision).
TEST_P(Golden, RoundedRowsMoveLogprobsByNoMoreThanTheirPrecision) {
  const struct {
    RowCodecs codecs;
    double largest_mean;
  } cases[] = {{{Codec::bf16, Codec::bf16}, 0.02},
               {{Codec::fp8, Codec::bf16}, 0.25},
               {{Codec::bf16, Codec::fp8}, 0.2},
               {{Codec::fp8, Codec::fp8}, 0.3}};
  const GoldenPrompt& prompt = golden_.prompts.back();
  for (const auto& [codecs, largest_mean] : cases)
    for (const Combine combine : {Combine::exact, Combine::reduced}) {
      LocalEngine engine(golden_.path, {.codecs = codecs, .combine = combine});
      EXPECT_LE(mean_difference(prompt, engine.run(greedy(prompt.ids, 1))), largest_mean)
          << "codecs " << static_cast<int>(codecs.dispatch) << " " << static_cast<int>(codecs.combine);
    }
}

TEST_P(Golden, RoundedCachesMoveLogprobsByNoMoreThanTheirPrecision) {
  const GoldenPrompt& prompt = golden_.prompts.back();
  for (const auto& [kv_dtype, largest_mean] :
       {std::pair{DType::bf16, 0.05}, std::pair{DType::e4m3, 0.4}, std::pair{DType::int8, 0.15}}) {
    LocalEngine engine(golden_.path, {.kv_dtype = kv_dtype});
    EXPECT_LE(mean_difference(prompt, engine.run(greedy(prompt.ids, 1))), largest_mean)
        << to_string(kv_dtype);
  }
}

TEST_P(GoldenOverRanks, BitsDoNotDependOnTheCrowdOrOnPreemption) {
  const auto& prompts = golden_.prompts;
  std::vector<EngineRequest> requests;
  for (size_t i = 0; i < 16; ++i) {
    EngineRequest r = greedy(prompts[i % prompts.size()].ids, 20 + static_cast<int32_t>(i));
    if (i % 3 == 0) r.sampling = {.temperature = 0.9f, .top_p = 0.95f}, r.seed = i;
    requests.push_back(std::move(r));
  }
  std::vector<std::vector<uint32_t>> alone;
  {
    LocalEngine engine(golden_.path, {.num_ranks = num_ranks_});
    for (const EngineRequest& r : requests) alone.push_back(bits(engine.run(r)));
  }
  const auto in_crowd = [&](LocalEngineOptions options) -> EngineCounters {
    options.num_ranks = num_ranks_;
    LocalEngine engine(golden_.path, options);
    std::vector<std::future<Completion>> pending;
    for (const EngineRequest& r : requests) pending.push_back(engine.submit(r));
    for (size_t i = 0; i < pending.size(); ++i)
      EXPECT_EQ(bits(pending[i].get()), alone[i]) << "request " << i;
    return engine.engine().counters();
  };
  EXPECT_EQ(in_crowd({.num_workers = 3}).preemptions_recompute, 0);
  EXPECT_GT(in_crowd({.num_workers = 1, .max_batched_tokens = 40, .kv_tokens = 400}).preemptions_recompute,
            0);
  for (const bool prefix_caching : {true, false}) {
    const EngineCounters swapped = in_crowd({.num_workers = 1,
                                             .max_batched_tokens = 40,
                                             .kv_tokens = 400,
                                             .prefix_caching = prefix_caching,
                                             .swap_tokens = 4000,
                                             .preemption = Preemption::swap});
    EXPECT_GT(swapped.preemptions_swap, 0);
    EXPECT_GT(swapped.kv_swap_bytes_in, 0);
    EXPECT_EQ(swapped.preemptions_recompute, 0);
  }
  const EngineCounters divided =
      in_crowd({.num_workers = 2, .worker_threads = true, .micro_batches = MicroBatches::two});
  EXPECT_GT(divided.steps_by_micro_batches[1], divided.steps_by_micro_batches[0]);
}

TEST_P(GoldenOverRanks, PagesOfCodesGiveTheBitsOfARequestAlone) {
  for (const DType kv_dtype : {DType::e4m3, DType::int8}) {
    std::vector<EngineRequest> requests;
    for (size_t i = 0; i < 8; ++i)
      requests.push_back(
          greedy(golden_.prompts[i / 2 % golden_.prompts.size()].ids, 20 + static_cast<int32_t>(i)));
    std::vector<std::vector<uint32_t>> alone;
    LocalEngine one(golden_.path, {.num_ranks = num_ranks_, .prefix_caching = false, .kv_dtype = kv_dtype});
    for (const EngineRequest& r : requests) alone.push_back(bits(one.run(r)));
    for (const Preemption preemption : {Preemption::recompute, Preemption::swap}) {
      LocalEngine crowd(golden_.path, {.num_workers = 1,
                                       .num_ranks = num_ranks_,
                                       .max_batched_tokens = 40,
                                       .kv_tokens = 320 / num_ranks_,  // of a rank's part, twice as many
                                       .swap_tokens = 4000,
                                       .preemption = preemption,
                                       .kv_dtype = kv_dtype});
      HoldingRequest hold(crowd.engine(), greedy(std::span(golden_.prompts.back().ids).first(1), 2));
      std::vector<std::future<Completion>> pending;
      for (const EngineRequest& r : requests) pending.push_back(crowd.submit(r));
      hold.finish();
      for (size_t i = 0; i < pending.size(); ++i)
        EXPECT_EQ(bits(pending[i].get()), alone[i]) << "request " << i;
      const EngineCounters c = crowd.engine().counters();
      EXPECT_GT(preemption == Preemption::swap ? c.preemptions_swap : c.preemptions_recompute, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Golden, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenOverRanks,
                         ::testing::Combine(::testing::ValuesIn(golden_case_names()),
                                            ::testing::Values(1, 2)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_over_" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace guildhall
