#include "router/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "kernels/cpu_ops.h"
#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;

class SchedulerTest : public ::testing::Test {
 protected:
  void make(int64_t num_pages, SchedulerOptions options) {
    cache_ = *KvCache::create(tiny_gqa_spec(), {.block_size = 4,
                                                .memory_bytes = 256 * 4 * num_pages,
                                                .dtype = DType::f32,
                                                .max_model_len = 16,
                                                .max_tokens = 1 << 20,
                                                .prefix_caching = false});
    scheduler_ = std::make_unique<Scheduler>(options, std::vector<RankCache>{{cache_.get(), ops_.get()}});
  }
  Sequence& add(RequestId id, int64_t prompt_len, bool score_prompt = false) {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.prompt_ids.resize(static_cast<size_t>(prompt_len));
    std::iota(s->request.prompt_ids.begin(), s->request.prompt_ids.end(), 0);
    if (score_prompt) s->request.num_prompt_logprobs = 0;
    s->tokens = s->request.prompt_ids;
    Sequence& added = *s;
    scheduler_->add(std::move(s));
    return added;
  }
  // As add(), with a priority, which must be known when it comes.
  void add_with_priority(RequestId id, int64_t prompt_len, int32_t priority) {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.prompt_ids.assign(static_cast<size_t>(prompt_len), 1);
    s->request.priority = priority;
    s->tokens = s->request.prompt_ids;
    scheduler_->add(std::move(s));
  }
  // Runs one step as the engine would, every sampled token being 7; returns (id, tokens) of each chunk.
  std::vector<std::pair<RequestId, int64_t>> step() {
    std::vector<std::pair<RequestId, int64_t>> taken;
    for (const ScheduledChunk& c : std::vector(scheduler_->schedule(batch_))) {
      taken.emplace_back(c.sequence->id, c.num_tokens);
      const bool whole = c.num_tokens == c.sequence->num_pending();
      scheduler_->advance(c);
      c.sequence->num_prompt_scored += c.num_logits - (whole ? 1 : 0);
      if (whole) c.sequence->tokens.push_back(7);
    }
    return taken;
  }
  using Taken = std::pair<RequestId, int64_t>;
  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 1});
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_;
};

TEST_F(SchedulerTest, SplitsAPromptIntoChunksOfTheBudget) {
  make(20, {.max_sequences = 4, .max_batched_tokens = 5});
  add(1, 12);
  EXPECT_THAT(step(), ElementsAre(Taken{1, 5}));
  EXPECT_TRUE(batch_.logit_rows.empty());
  EXPECT_THAT(step(), ElementsAre(Taken{1, 5}));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 2}));
  EXPECT_THAT(batch_.logit_rows, ElementsAre(1));
  EXPECT_THAT(batch_.position_t, ElementsAre(10, 11));
}

TEST_F(SchedulerTest, DecodesComeBeforePrefillChunks) {
  make(20, {.max_sequences = 4, .max_batched_tokens = 6});
  add(1, 3);
  step();
  add(2, 12);
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 5}));
  EXPECT_THAT(batch_.sequence_t, ElementsAre(0, 1, 1, 1, 1, 1));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 5}));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 2}));
}

TEST_F(SchedulerTest, RunsNoMoreThanMaxSequences) {
  make(20, {.max_sequences = 2, .max_batched_tokens = 64});
  for (RequestId id = 1; id <= 3; ++id) add(id, 4);
  EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}, Taken{3, 4}));
}

TEST_F(SchedulerTest, WaitsForPagesWithoutOvertaking) {
  make(6, {.max_sequences = 8, .max_batched_tokens = 64});
  add(1, 15);  // 4 pages
  add(2, 12);  // 4 pages with its first token: waits
  add(3, 2);   // would fit, but came later
  EXPECT_THAT(step(), ElementsAre(Taken{1, 15}));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}));
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 12}, Taken{3, 2}));
}

TEST_F(SchedulerTest, PreemptsTheYoungestWhenADecodeFindsNoPage) {
  make(4, {.max_sequences = 8, .max_batched_tokens = 64});
  add(1, 7);
  add(2, 3);
  EXPECT_THAT(step(), ElementsAre(Taken{1, 7}, Taken{2, 3}));  // 2 + 1 pages
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 1}));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}));  // 1 takes the last page, 2 needs one: preempted
  EXPECT_EQ(scheduler_->counters().recomputed, 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 5}));  // prompt and generated tokens recomputed
  EXPECT_THAT(batch_.ids_t, ElementsAre(0, 1, 2, 7, 7));
  scheduler_->remove(2);
  EXPECT_EQ(cache_->pool().num_free(), cache_->num_pages());
}

TEST_F(SchedulerTest, AsksForTheLogitsOfPromptPositionsOnceEach) {
  make(20, {.max_sequences = 4, .max_batched_tokens = 4});
  add(1, 6, /*score_prompt=*/true);
  step();
  EXPECT_THAT(batch_.logit_rows, ElementsAre(0, 1, 2, 3));
  step();  // positions 4 and 5: 4 predicts the last prompt token, 5 is sampled from
  EXPECT_THAT(batch_.logit_rows, ElementsAre(0, 1));
  step();
  EXPECT_THAT(batch_.logit_rows, ElementsAre(0));
  scheduler_->preempt_all();
  step(), step();
  EXPECT_THAT(batch_.logit_rows,
              ElementsAre(3));  // recomputed 7 tokens; nothing of the prompt is scored again
}

TEST_F(SchedulerTest, ListsEachSequencesPagesInItsRowOfTheBlockTable) {
  make(20, {.max_sequences = 4, .max_batched_tokens = 64});
  add(1, 9);
  add(2, 2);
  step();
  EXPECT_EQ(batch_.num_sequences, 2);
  EXPECT_EQ(batch_.blocks_per_sequence, 3);
  std::vector<int32_t> used(batch_.block_table_sb.begin(), batch_.block_table_sb.begin() + 4);
  std::sort(used.begin(), used.end());
  EXPECT_EQ(std::unique(used.begin(), used.end()), used.end());
}

TEST_F(SchedulerTest, AMoreImportantOneRunsFirstAndTakesTheRoomOfALesserOne) {
  make(4, {.max_sequences = 8, .max_batched_tokens = 64});
  add_with_priority(1, 7, 5);
  add_with_priority(2, 3, 1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 3}, Taken{1, 7}));
  add_with_priority(3, 6, 0);  // two pages: 1 goes
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}, Taken{3, 6}));
  EXPECT_EQ(scheduler_->counters().recomputed, 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  add_with_priority(4, 6, 5);  // nobody goes for an equal
  EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(scheduler_->counters().recomputed, 1);
}

TEST_F(SchedulerTest, KeepsRoomForThoseThatRunToGrowIntoButNoMoreThanTheyCan) {
  for (const bool grows : {true, false}) {
    make(6, {.max_sequences = 8, .max_batched_tokens = 64, .reserve_share = 0.4});
    add(1, 7).request.max_tokens = grows ? 9 : 1;  // from two pages to four, or to none
    step();
    add(2, 10);  // three pages with its first token, of four that are free
    EXPECT_EQ(step().size(), grows ? 1u : 2u);
  }
}

TEST_F(SchedulerTest, PrefillTakesWhatTheTargetLeaves) {
  make(20, {.max_sequences = 4, .max_batched_tokens = 64, .target_itl = std::chrono::milliseconds(20)});
  for (int64_t n : {10, 30, 60})
    scheduler_->record_step(n, 5'000'000 + n * 500'000);  // 5 ms and 0.5 ms a token
  add(1, 3);
  EXPECT_THAT(step(), ElementsAre(Taken{1, 3}));
  for (RequestId id = 2; id < 5; ++id) add(id, 12);
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 12}, Taken{3, 12}, Taken{4, 4}));  // 29 tokens in all
}

}  // namespace
}  // namespace guildhall
