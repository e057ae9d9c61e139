// kv_memory_test.cc: what of a GPU the KV cache gets, and what is said when there is no room.
#include "deploy/programs/kv_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu_ops.h"
#include "tests/support/golden_case.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kGiB = 1 << 30;

Result<int64_t> ask(const KvMemoryRule& rule, int64_t used) {
  return kv_memory(rule, "cuda:0", 80 * kGiB, used);
}

TEST(KvMemory, IsWhatWasAskedForWhereItFits) {
  EXPECT_EQ(*ask({.memory_bytes = 52 * kGiB, .margin = 0.1}, 20 * kGiB), 52 * kGiB);
  const auto refused = ask({.memory_bytes = 52 * kGiB + 1, .margin = 0.1}, 20 * kGiB);
  ASSERT_TRUE(refused.has_error());
  EXPECT_EQ(refused.error().code, Code::resource_exhausted);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("router.kv_cache.memory"),
                                             HasSubstr("cuda:0 has 80.0 GiB; 20.0 GiB are in use"),
                                             HasSubstr("8.0 GiB stay free"), HasSubstr("leaves 52.0 GiB")));
}

TEST(KvMemory, IsWhatOthersLeaveOfAFraction) {
  EXPECT_EQ(*ask({.memory_bytes = kGiB, .fraction = 0.5, .margin = 0.1}, 20 * kGiB), 20 * kGiB);
  // The margin stays free whatever the fraction.
  EXPECT_EQ(*ask({.fraction = 1.0, .margin = 0.1}, 20 * kGiB), 52 * kGiB);
  const auto refused = ask({.fraction = 0.25, .margin = 0.1}, 20 * kGiB);
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, HasSubstr("router.kv_cache.memory_fraction: 0.25"));
}

// The rehearsal itself runs on any device: here on the CPU, for every kind of model.
class Rehearsal : public ::testing::TestWithParam<std::string> {};

TEST_P(Rehearsal, RunsTheLargestStepsOfEveryModel) {
  const GoldenCase golden = read_golden_case(GetParam());
  const ModelSpec spec = read_model_spec(golden.path).value();
  LoadProgress progress;
  const auto weights = DenseWeights::load(golden.path, spec, LoadMode::checkpoint, progress).value();
  const auto ops = make_cpu_ops({});
  for (const auto& [longest, kv_dtype] :
       {std::pair{128, DType::f32}, std::pair{40, DType::bf16}, std::pair{128, DType::e4m3}}) {
    const auto peak = measure_peak(whole_model(spec), *weights, *ops,
                                   {.max_tokens = 70,
                                    .max_sequences = 9,
                                    .max_model_len = longest,
                                    .block_size = 16,
                                    .kv_dtype = kv_dtype});
    EXPECT_TRUE(peak.has_value());
  }
  for (const int rank : {0, 1}) {
    const ModelShard shard = make_shard(spec, rank, 2).value();
    const auto part =
        DenseWeights::load(golden.path, spec, shard, LoadMode::checkpoint, progress, ops->memory()).value();
    EXPECT_TRUE(
        measure_peak(shard, *part, *ops, {.max_tokens = 70, .max_sequences = 9, .max_model_len = 40}));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Rehearsal, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace guildhall
