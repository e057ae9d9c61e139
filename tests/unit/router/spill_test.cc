// spill_test.cc: an engine whose cold pages go to a file gives the texts that it gives without, and ends
// whenever it is told to.
#include <thread>

#include "tests/unit/router/engine_fixture.h"
#include "tests/unit/router/spill_folder.h"

namespace guildhall {
namespace {

constexpr int64_t kPromptLen = 60;

class Spill : public EngineTest {
 protected:
  // A prompt of its own for each n.
  static EngineRequest prompt(int n, int32_t max_tokens = 6) {
    EngineRequest r = request(kPromptLen, max_tokens);
    for (int32_t& id : r.prompt_ids) id = 1 + (id * 3 + n * 11) % 200;
    r.num_logprobs = 2;
    return r;
  }
  // Room for two such requests.
  LocalEngineOptions small() const {
    return {
        .num_workers = 1,
        .num_threads = 1,
        .block_size = 8,
        .kv_tokens = 160,
        .spill = SpillOptions{
            .folder = folder_.path(), .size_bytes = 4 << 20, .buffer_bytes = 1 << 20, .always_reads = true}};
  }
  void start_from(const std::string& checkpoint, const LocalEngineOptions& options) {
    local_.reset();
    local_ = std::make_unique<LocalEngine>(read_golden_case(checkpoint).path, options);
  }

  static void expect_same(const Completion& a, const Completion& b) {
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    for (size_t i = 0; i < a.logprobs.size(); ++i)
      EXPECT_EQ(a.logprobs[i].chosen.logprob, b.logprobs[i].chosen.logprob) << "bits of token " << i;
  }

  // Prompts push each other out of the cache, and come again.
  void expect_same_texts(const std::string& checkpoint, const LocalEngineOptions& options) {
    SCOPED_TRACE(checkpoint);
    LocalEngineOptions plain = options;
    plain.spill.reset(), plain.prefix_caching = false;
    start_from(checkpoint, plain);
    std::vector<Completion> expected;
    for (int n = 0; n < 5; ++n) expected.push_back(local_->run(prompt(n)));
    start_from(checkpoint, options);
    for (int round = 0; round < 3; ++round)
      for (int n = 0; n < 5; ++n) {
        const Completion got = local_->run(prompt(n));
        expect_same(got, expected[static_cast<size_t>(n)]);
        if (round > 0) {
          EXPECT_GE(got.num_cached_tokens, 56) << n;
        }
        // What is on its way to the file cannot be read yet.
        wait_for_counters(
            [](const EngineCounters& c) { return c.kv_spill_slots_used == c.kv_spill_pages_written; });
      }
    expect_all_pages_free();
    EXPECT_EQ(engine().audit(), "");
    const EngineCounters c = engine().counters();
    EXPECT_GE(c.kv_spill_hits, 5);
    EXPECT_GT(c.kv_spill_bytes_written, 0);
    EXPECT_GT(c.kv_spill_bytes_read, 0);
    EXPECT_EQ(c.kv_spill_pages_damaged, 0);
  }

  SpillFolder folder_;
};

TEST_F(Spill, TextsAreTheSameBitsWithPagesFromTheFile) {
  expect_same_texts("qwen3_moe_f32", small());
  expect_same_texts("deepseek_v3_f32", small());  // MLA: keys and values share their bytes
  for (const DType kv_dtype : {DType::bf16, DType::e4m3}) {
    LocalEngineOptions options = small();
    options.kv_dtype = kv_dtype;
    expect_same_texts("qwen3_moe_f32", options);
  }
}

TEST_F(Spill, RanksOfTensorParallelismSpillTheirPagesTogether) {
  LocalEngineOptions two = small();
  two.num_ranks = 2;
  two.kv_tokens /= 2;  // each rank has as much memory, and half of a token's keys and values
  expect_same_texts("qwen3_moe_f32", two);
}

TEST_F(Spill, SaltsKeepTenantsApartInTheFileToo) {
  start(small());
  for (int n = 0; n < 5; ++n) local_->run(prompt(n));
  EngineRequest other = prompt(0);
  other.cache_salt = "other";
  EXPECT_EQ(local_->run(other).num_cached_tokens, 0);
}

TEST_F(Spill, CancelledAndStoppedWhilePagesAreUnderWay) {
  for (int i = 0; i < 10; ++i) {
    start(small());
    for (int n = 0; n < 4; ++n) local_->run(prompt(n, 1));
    std::vector<std::future<Completion>> under_way;
    for (int n = 0; n < 8; ++n) under_way.push_back(local_->submit(prompt(n % 4, 40)));
    for (RequestId id = 5; id <= 12; id += 2) engine().cancel(id);
    EXPECT_EQ(engine().audit(), "");
    local_.reset();
    for (auto& completion : under_way) completion.get();  // each came to an end
  }
}

TEST_F(Spill, WithoutRoomItServesWithout) {
  LocalEngineOptions options = small();
  options.spill->folder = folder_.path() / "none";
  start(options);
  EXPECT_EQ(local_->run(prompt(0)).finish, FinishReason::length);
  EXPECT_EQ(engine().counters().kv_spill_slots_total, 0);
}

}  // namespace
}  // namespace guildhall
