// nccl_ranks_test.cc: whole models over two ranks on devices, whose sums are NCCL's: against transformers,
// and with a worker that is lost in the middle of a step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ranges>

#include "kernels/cuda/cuda_ops.h"
#include "router/nccl_collective.h"
#include "tests/support/golden_run.h"

namespace guildhall {
namespace {

// Steps of 8 tokens: of bf16 weights, more rows are rounded for the library (linear.h). Workers are
// elsewhere: the ranks' devices are one in emulation, and what frees pinned memory waits for all of its
// streams, so for sums that the waiting thread has not come to.
LocalEngineOptions two_ranks() {
  return {.num_workers = 2,
          .num_threads = 1,
          .num_ranks = 2,
          .max_batched_tokens = 8,
          .block_size = 4,
          .kv_tokens = 256,
          .workers_on_cpu = true,
          .make_ops = [] { return make_cuda_ops(0, {}).value(); },
          .make_group =
              [](const auto& ops_r) { return NcclGroup::make(ops_r, std::chrono::minutes(5)).value(); }};
}

class NcclRanks : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr size_t kLongestPrompt = 17;  // as emulation's speed allows
  static constexpr int32_t kNewTokens = 3;
  const GoldenCase golden_ = read_golden_case(GetParam());
};

TEST_P(NcclRanks, AgreeWithTransformers) {
  LocalEngine engine(golden_.path, two_ranks());
  // The longest first: pinned memory that grows is freed.
  for (const GoldenPrompt& prompt : golden_.prompts | std::views::reverse) {
    if (prompt.ids.size() > kLongestPrompt) continue;
    SCOPED_TRACE(testing::Message() << "prompt of " << prompt.ids.size());
    const Completion got = engine.run(greedy(prompt.ids, kNewTokens));
    expect_prompt(prompt, got, golden_.tolerance);
    if (HasFatalFailure()) return;
    expect_greedy(prompt, got, golden_.tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, NcclRanks, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

// The other rank has enqueued sums that the first one will not come to: its communicator is given up, and
// both join another.
TEST(NcclRanksRecovery, TheSameTokensComeOutThoughAWorkerDiedAndCameBack) {
  const GoldenCase golden = read_golden_case(std::string("qwen3_moe_f32"));
  LocalEngine engine(golden.path, two_ranks());
  const EngineRequest request = greedy(golden.prompts[2].ids, 6);
  std::vector<int32_t> undisturbed, disturbed;
  const auto run = [&](std::vector<int32_t>& tokens, size_t kill_after) {
    std::promise<void> ended;
    bool struck = kill_after == 0;
    ASSERT_TRUE(engine.engine().submit(request, [&](EngineEvent&& event) {
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      if (!struck && tokens.size() == kill_after) struck = true, engine.kill_worker(1);
      if (event.finish) ended.set_value();
    }));
    if (kill_after > 0) {
      EXPECT_EQ(engine.wait_for_loss().first, 1);
      engine.attach_worker(1);
    }
    ended.get_future().wait();
  };
  run(undisturbed, 0);
  run(disturbed, 2);
  EXPECT_EQ(disturbed.size(), 6u);
  EXPECT_EQ(disturbed, undisturbed);
}

}  // namespace
}  // namespace guildhall
