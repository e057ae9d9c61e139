// forward_cache_test.cc: the KV cache on the device: in 8 bits; and crowds that do not fit in it, whose pages
// are given up and computed again, swapped to the host and back, found again by their beginning, and copied
// where choices of one prompt part.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_ops.h"
#include "tests/support/golden_run.h"
#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

std::unique_ptr<Ops> make_device() { return make_cuda_ops(0, {}).value(); }

class CodesCuda : public ::testing::TestWithParam<std::string> {};

// As golden_test's: the mean over a prompt is bounded, as random weights part at near-ties.
TEST_P(CodesCuda, MoveLogprobsByNoMoreThanTheirPrecision) {
  const GoldenCase golden = read_golden_case(GetParam());
  const GoldenPrompt& prompt = golden.prompts[2];
  for (const auto& [kv_dtype, largest_mean] : {std::pair{DType::e4m3, 0.8}, std::pair{DType::int8, 0.3}}) {
    LocalEngine engine(golden.path, {.num_threads = 1,
                                     .max_batched_tokens = 8,
                                     .block_size = 4,
                                     .kv_tokens = 256,
                                     .kv_dtype = kv_dtype,
                                     .make_ops = make_device});
    const Completion got = engine.run(greedy(prompt.ids, 1));
    ASSERT_EQ(got.prompt_logprobs.size(), prompt.logprobs.size());
    double sum = 0;
    for (size_t i = 0; i < prompt.logprobs.size(); ++i)
      sum += std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]);
    const double mean = sum / static_cast<double>(prompt.logprobs.size());
    RecordProperty(std::string(to_string(kv_dtype)), std::to_string(mean));
    EXPECT_LE(mean, largest_mean) << to_string(kv_dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CodesCuda, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

struct CrowdCase {
  std::string checkpoint;
  size_t prompt_len;
  std::vector<Preemption> preemptions;
};

// Of steps up to 8 rows a row's bits depend on that row only, but for prompts on tensor cores: so the case
// whose heads fill them has prompts of one token and computes none of them again.
class CrowdCuda : public ::testing::TestWithParam<CrowdCase> {
 protected:
  static constexpr int64_t kBlock = 4;

  // Three choices of two prompts each.
  std::vector<EngineRequest> requests() const {
    std::vector<EngineRequest> all;
    for (uint64_t i = 0; i < 6; ++i) {
      EngineRequest r;
      for (size_t t = 0; t < GetParam().prompt_len; ++t)
        r.prompt_ids.push_back(static_cast<int32_t>(1 + (t * 7 + i / 3 * 31) % 50));
      r.max_tokens = 10;
      r.num_logprobs = 0;
      if (i % 3 == 0)
        r.sampling.temperature = 0;
      else
        r.seed = i;
      all.push_back(std::move(r));
    }
    return all;
  }
  LocalEngineOptions options(DType kv_dtype) const {
    return {.num_workers = 1,
            .num_threads = 1,
            .max_sequences = 8,
            .max_batched_tokens = 8,
            .block_size = kBlock,
            .kv_tokens = 512,
            .kv_dtype = kv_dtype,
            .make_ops = make_device};
  }
  // All of them wait when the first step that may take one begins.
  std::vector<Completion> run_together(LocalEngine& engine) const {
    EngineRequest first;
    first.prompt_ids = {60};
    first.max_tokens = 2;
    HoldingRequest hold(engine.engine(), first);
    std::vector<std::future<Completion>> pending;
    for (const EngineRequest& r : requests()) pending.push_back(engine.submit(r));
    hold.finish();
    std::vector<Completion> done;
    for (auto& p : pending) done.push_back(p.get());
    return done;
  }
  const GoldenCase golden_ = read_golden_case(GetParam().checkpoint);
};

TEST_P(CrowdCuda, GivesTheTextsOfEachAlone) {
  for (const DType kv_dtype : {DType::f32, DType::e4m3, DType::int8}) {
    std::vector<std::vector<uint32_t>> alone;
    {
      LocalEngineOptions roomy = options(kv_dtype);
      roomy.prefix_caching = false;
      LocalEngine engine(golden_.path, roomy);
      for (const EngineRequest& r : requests()) alone.push_back(bits(engine.run(r)));
      EXPECT_EQ(engine.engine().counters().preemptions_recompute, 0);
    }
    for (const Preemption preemption : GetParam().preemptions) {
      SCOPED_TRACE(testing::Message() << to_string(kv_dtype) << " " << static_cast<int>(preemption));
      LocalEngineOptions narrow = options(kv_dtype);
      narrow.kv_tokens = 44;
      narrow.swap_tokens = 400;
      narrow.preemption = preemption;
      LocalEngine engine(golden_.path, narrow);
      const std::vector<Completion> together = run_together(engine);
      bool copied = false;
      for (size_t i = 0; i < together.size(); ++i) {
        EXPECT_EQ(bits(together[i]), alone[i]) << "request " << i;
        copied |= together[i].num_cached_tokens % kBlock != 0;  // found in a page that others write to
      }
      EXPECT_EQ(copied, GetParam().prompt_len > 1);
      EXPECT_EQ(engine.engine().audit(), "");
      const EngineCounters c = engine.engine().counters();
      if (preemption == Preemption::swap) {
        EXPECT_GT(c.preemptions_swap, 0);
        EXPECT_GT(c.kv_swap_bytes_out, 0);
        EXPECT_GT(c.kv_swap_bytes_in, 0);
        EXPECT_EQ(c.preemptions_recompute, 0);
      } else {
        EXPECT_GT(c.preemptions_recompute, 0);
      }
    }
  }
}

const std::vector<Preemption> kBoth = {Preemption::recompute, Preemption::swap};
INSTANTIATE_TEST_SUITE_P(Checkpoints, CrowdCuda,
                         ::testing::Values(CrowdCase{"qwen3_moe_f32", 7, kBoth},
                                           CrowdCase{"deepseek_v3_f32", 7, kBoth},
                                           CrowdCase{"qwen3_moe_f32_one_expert", 1, {Preemption::swap}}),
                         [](const auto& info) { return info.param.checkpoint; });

}  // namespace
}  // namespace guildhall
