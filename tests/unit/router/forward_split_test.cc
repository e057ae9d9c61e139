// forward_split_test.cc: a step divided into two micro-batches, wherever, has the bits of the whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "experts/worker.h"
#include "kernels/cpu_ops.h"
#include "router/forward.h"
#include "router/scheduler.h"
#include "tests/support/golden_case.h"
#include "transport/loopback.h"

namespace guildhall {
namespace {

constexpr int64_t kMaxTokens = 64, kMaxLen = 128;
constexpr int kNumWorkers = 2;

// A model whose experts run on this thread while the dispatcher waits.
class Model {
 public:
  explicit Model(const std::string& name)
      : path_(read_golden_case(name).path), exchange_(fabric_.make_end("r")) {
    weights_ = DenseWeights::load(path_, spec_, LoadMode::checkpoint, progress_).value();
    const Placement placement = even_split(spec_, kNumWorkers, 1);
    for (int i = 0; i < kNumWorkers; ++i) {
      ends_.push_back(fabric_.make_end("w" + std::to_string(i)));
      workers_.push_back(std::make_unique<Worker>(spec_, *ends_.back(), make_cpu_ops({})));
      workers_.back()->set_store(
          ExpertStore::load(path_, spec_, LoadMode::checkpoint, placement.experts_of(i), progress_).value());
      workers_.back()->attach_router("r", exchange_->local_address(), 1, [](Result<void>) {});
    }
    for (int i = 0; i < kNumWorkers; ++i) {
      const auto w = static_cast<size_t>(i);
      dispatcher_.attach(i, "w", exchange_->connect("w", ends_[w]->local_address()).value(), 1,
                         {1, placement.experts_of(i)});
    }
  }

  // Steps over the prompts in chunks, each divided by `split_of(step, its tokens)`: the logits' bits of all.
  std::vector<uint32_t> run(const std::vector<std::vector<int32_t>>& prompts,
                            const std::function<int64_t(int64_t, int64_t)>& split_of) {
    const auto cache = KvCache::create(spec_, {.block_size = 4,
                                               .memory_bytes = 1 << 24,
                                               .dtype = DType::f32,
                                               .max_model_len = kMaxLen,
                                               .max_tokens = 1024})
                           .value();
    Forward forward(spec_, *weights_, *cache, &dispatcher_, *ops_, clock_, kMaxTokens, kMaxLen);
    std::vector<uint32_t> bits;
    std::vector<size_t> done(prompts.size());
    std::vector<std::vector<int32_t>> pages(prompts.size());
    for (size_t s = 0; s < prompts.size(); ++s) cache->pool().grow(pages[s], kMaxLen);
    for (int64_t step = 0; done.back() < prompts.back().size(); ++step) {
      const StepBatch batch = next_batch(prompts, pages, done);
      const auto rows = forward.run(batch, split_of(step, batch.num_tokens()));
      const View2<const float> logits = forward.logits(rows.value());
      for (int64_t i = 0; i < logits.rows * logits.cols; ++i)
        bits.push_back(std::bit_cast<uint32_t>(logits.data[i]));
    }
    return bits;
  }

 private:
  // Up to seven more tokens of each prompt, logits of all of them.
  static StepBatch next_batch(const std::vector<std::vector<int32_t>>& prompts,
                              const std::vector<std::vector<int32_t>>& pages, std::vector<size_t>& done) {
    StepBatch batch;
    batch.num_sequences = static_cast<int64_t>(prompts.size());
    batch.blocks_per_sequence = static_cast<int64_t>(pages[0].size());
    for (size_t s = 0; s < prompts.size(); ++s) {
      batch.block_table_sb.insert(batch.block_table_sb.end(), pages[s].begin(), pages[s].end());
      const size_t end = std::min(prompts[s].size(), done[s] + 7);
      for (; done[s] < end; ++done[s]) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
        batch.ids_t.push_back(prompts[s][done[s]]);
        batch.position_t.push_back(static_cast<int32_t>(done[s]));
        batch.sequence_t.push_back(static_cast<int32_t>(s));
      }
    }
    return batch;
  }

  DispatcherOptions options() {
    return {.experts = expert_grid(spec_),
            .num_workers = kNumWorkers,
            .hidden = spec_.hidden,
            .top_k = spec_.moe.top_k,
            .max_tokens = kMaxTokens,
            .deadline = std::chrono::minutes(1),
            .team = &ops_->team(),
            .pump_local_workers = [this] {
              bool worked = false;
              for (auto& worker : workers_) worked |= worker->poll();
              return worked;
            }};
  }

  const std::filesystem::path path_;
  const ModelSpec spec_ = read_model_spec(path_).value();
  LoadProgress progress_;
  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> exchange_;
  std::vector<std::unique_ptr<Exchange>> ends_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<DenseWeights> weights_;
  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 2});
  StepClock clock_;
  Dispatcher dispatcher_{options(), *exchange_};
};

class ForwardSplit : public ::testing::TestWithParam<std::string> {};

// The last prompt is alone after two steps, so that one sequence's chunk lies on both sides of the split.
TEST_P(ForwardSplit, HasTheBitsOfTheWholeWhereverItIs) {
  Model model(GetParam());
  const std::vector<std::vector<int32_t>> prompts{
      {5, 9, 2, 77, 31},
      {8, 8, 1, 4, 100, 3, 9, 12, 14},
      {61, 7, 2, 90, 17, 55, 4, 3, 2, 1, 44, 10, 120, 6, 71, 20, 33, 9, 15}};
  const auto whole = model.run(prompts, [](int64_t, int64_t) { return 0; });
  ASSERT_FALSE(whole.empty());
  for (int64_t split = 1; split < 19; ++split)
    EXPECT_EQ(model.run(prompts, [&](int64_t, int64_t n) { return std::min(split, n - 1); }), whole)
        << "before token " << split;
  // Not the same in every step.
  EXPECT_EQ(model.run(prompts, [](int64_t step, int64_t n) { return step % 2 == 0 ? 0 : n / 2; }), whole);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ForwardSplit, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace guildhall
