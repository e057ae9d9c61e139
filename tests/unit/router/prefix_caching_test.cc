// prefix_caching_test.cc: prompts that begin alike share pages: who computes what, and that nothing is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "kernels/cpu_ops.h"
#include "router/scheduler.h"
#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Taken = std::pair<RequestId, int64_t>;

class PrefixCaching : public ::testing::Test {
 protected:
  void make(int64_t num_pages, SchedulerOptions options) {
    cache_ = *KvCache::create(tiny_gqa_spec(), {.block_size = 4,
                                                .memory_bytes = 256 * 4 * num_pages,
                                                .dtype = DType::f32,
                                                .max_model_len = 16,
                                                .max_tokens = 1 << 20});
    scheduler_ = std::make_unique<Scheduler>(options, std::vector<RankCache>{{cache_.get(), ops_.get()}});
  }
  Sequence& add(RequestId id, std::vector<int32_t> prompt, std::string salt = "") {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.prompt_ids = s->tokens = std::move(prompt);
    s->request.cache_salt = std::move(salt);
    Sequence& added = *s;
    scheduler_->add(std::move(s));
    return added;
  }
  // Runs one step as the engine would, each sampled token being 7; (id, tokens) of each chunk.
  std::vector<Taken> step() {
    std::vector<Taken> taken;
    for (const ScheduledChunk& c : std::vector(scheduler_->schedule(batch_))) {
      taken.emplace_back(c.sequence->id, c.num_tokens);
      const bool whole = c.num_tokens == c.sequence->num_pending();
      scheduler_->advance(c);
      if (whole) c.sequence->tokens.push_back(7);
    }
    return taken;
  }
  PagePool& pool() { return cache_->pool(); }
  // What lies in the cache, as far as this test goes: of each slot the id whose keys are there.
  int32_t& at(int32_t page, int64_t slot) {
    const PageArray& array = cache_->arrays()[0];
    return *reinterpret_cast<int32_t*>(array.data + page * array.page_bytes + slot * array.page_bytes / 4);
  }

  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 1});
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_;
};

std::vector<int32_t> numbers(int32_t n, int32_t first = 0) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

TEST_F(PrefixCaching, ALaterPromptBeginsWhereTheCacheEnds) {
  make(20, {});
  add(1, numbers(10));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 10}));
  Sequence& second = add(2, numbers(11));  // two full blocks are there; the third never was one
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 3}));
  EXPECT_EQ(second.num_found_tokens, 8);
  EXPECT_THAT(batch_.position_t, ElementsAre(10, 8, 9, 10));
  const auto tables = batch_.block_table_sb;
  const auto row1 = tables.begin() + batch_.blocks_per_sequence;
  EXPECT_EQ(tables[0], *row1);
  EXPECT_EQ(tables[1], *(row1 + 1));
  EXPECT_NE(tables[2], *(row1 + 2));
}

TEST_F(PrefixCaching, WhatAnEndedSequenceLeftIsFoundAnswersToo) {
  make(20, {});
  add(1, numbers(7));
  step(), step();  // 0..6 7 7, of which 8 are computed
  scheduler_->remove(1);
  EXPECT_EQ(pool().num_free(), 20);
  auto again = numbers(7);
  again.insert(again.end(), {7, 7, 9});
  add(2, again);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 2}));
}

TEST_F(PrefixCaching, TheLastTokenIsAlwaysComputed) {
  make(20, {});
  add(1, numbers(8));
  step();
  scheduler_->remove(1);
  add(2, numbers(8));
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
  EXPECT_THAT(batch_.logit_rows, ElementsAre(0));
}

// n > 1: the choices of a prompt wait for the first of them, share all its pages, and copy the last one,
// which is not full, as they write to it.
TEST_F(PrefixCaching, TheChoicesOfAPromptShareItsLastPageUntilTheyWrite) {
  make(20, {});
  for (RequestId id = 1; id <= 3; ++id) add(id, numbers(7));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 7}));
  const std::vector<int32_t> first = batch_.block_table_sb;
  at(first[1], 1) = 1234;  // what the others must find: position 5
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 1}, Taken{3, 1}));
  EXPECT_THAT(batch_.position_t, ElementsAre(7, 6, 6));
  EXPECT_EQ(scheduler_->audit(), "");
  for (size_t s = 0; s < 3; ++s) {
    EXPECT_EQ(batch_.block_table_sb[2 * s], first[0]);
    EXPECT_EQ(at(batch_.block_table_sb[2 * s + 1], 1), 1234);
  }
  EXPECT_NE(batch_.block_table_sb[3], first[1]);
  EXPECT_NE(batch_.block_table_sb[5], first[1]);
  EXPECT_NE(batch_.block_table_sb[5], batch_.block_table_sb[3]);
  EXPECT_EQ(pool().num_free(), 20 - 4);
}

TEST_F(PrefixCaching, ALastPageThatNobodyHoldsIsTakenOver) {
  make(20, {});
  add(1, numbers(7)).request.max_tokens = 0;
  step();
  const std::vector<int32_t> first = batch_.block_table_sb;
  scheduler_->remove(1);
  add(2, numbers(7));
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
  EXPECT_EQ(batch_.block_table_sb, first);
  EXPECT_EQ(pool().num_free(), 18);
}

TEST_F(PrefixCaching, AFullLastPageIsCopiedTooAsItsLastTokenIsComputedAgain) {
  make(20, {});
  add(1, numbers(8));
  step();
  add(2, numbers(8));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 1}));
  EXPECT_EQ(batch_.position_t[1], 7);
  EXPECT_EQ(pool().num_free(), 20 - 4);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PrefixCaching, AnotherSaltSharesNothing) {
  make(20, {});
  add(1, numbers(9), "a");
  step();
  add(2, numbers(9), "b");
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 9}));
}

TEST_F(PrefixCaching, AScoredPromptIsComputedWhole) {
  make(20, {});
  add(1, numbers(9));
  step();
  add(2, numbers(9)).request.num_prompt_logprobs = 0;
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 9}));
}

TEST_F(PrefixCaching, WhoComesWhileABlockIsComputedWaitsForIt) {
  make(20, {.max_sequences = 8, .max_batched_tokens = 6});
  add(1, numbers(13)), add(2, numbers(14));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 6}));
  EXPECT_THAT(step(), ElementsAre(Taken{1, 6}));  // 2 could have block 0; it waits for 1 and 2
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 2}));
}

TEST_F(PrefixCaching, WhoWaitsForABlockGoesOnWhenItsMakerLeaves) {
  make(20, {.max_sequences = 8, .max_batched_tokens = 6});
  add(1, numbers(13)), add(2, numbers(14));
  step();
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 6}));  // one block was left
  EXPECT_THAT(step(), ElementsAre(Taken{2, 4}));
}

TEST_F(PrefixCaching, APreemptedSequenceFindsWhatIsLeftOfIt) {
  make(20, {});
  add(1, numbers(10));
  step();
  scheduler_->preempt_all();
  EXPECT_THAT(step(), ElementsAre(Taken{1, 3}));  // 11 tokens, two blocks were there
}

TEST_F(PrefixCaching, SharedPagesCountOnceWhenRoomIsSought) {
  make(5, {});
  add(1, numbers(9));  // three pages
  step();
  add(2, numbers(10));  // three pages with its first token, two of them shared: fits in the two left
  EXPECT_THAT(step(), ElementsAre(Taken{1, 1}, Taken{2, 2}));
  EXPECT_EQ(pool().num_free(), 1);
}

// Requests of every kind come, go, are preempted and run out of memory: in the end every page is free,
// nothing is announced, and every token was computed on the pages of its own text.
TEST_F(PrefixCaching, LosesNoPageInACrowd) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    make(9 + random() % 6, {.max_sequences = 5, .max_batched_tokens = 7});
    RequestId next = 1;
    std::vector<RequestId> alive;
    for (int round = 0; round < 500; ++round) {
      if (random() % 3 == 0) {
        auto prompt = numbers(static_cast<int32_t>(1 + random() % 12), static_cast<int32_t>(random() % 2));
        if (random() % 4 == 0) prompt.back() = 99;
        Sequence& s = add(next, prompt, random() % 5 == 0 ? "other" : "");
        if (random() % 6 == 0) s.request.num_prompt_logprobs = 0;
        alive.push_back(next++);
      }
      if (random() % 50 == 0) scheduler_->preempt_all();
      const auto chunks = scheduler_->schedule(batch_);
      std::vector<RequestId> full;  // have the model's length, and end
      for (const ScheduledChunk& c : chunks)
        for (int64_t p = c.sequence->num_computed; p < c.sequence->num_computed + c.num_tokens; ++p)
          at(c.sequence->pages[static_cast<size_t>(p / 4)], p % 4) =
              c.sequence->tokens[static_cast<size_t>(p)];
      for (const ScheduledChunk& c : chunks) {
        for (int64_t p = 0; p < c.sequence->num_computed + c.num_tokens; ++p)
          ASSERT_EQ(at(c.sequence->pages[static_cast<size_t>(p / 4)], p % 4),
                    c.sequence->tokens[static_cast<size_t>(p)]);
        const bool whole = c.num_tokens == c.sequence->num_pending();
        scheduler_->advance(c);
        if (whole) c.sequence->tokens.push_back(static_cast<int32_t>(random() % 2));
        if (c.sequence->tokens.size() >= 16) full.push_back(c.sequence->id);
      }
      std::erase_if(full, [&](RequestId id) { return scheduler_->remove(id) != nullptr; });
      EXPECT_THAT(full, IsEmpty());
      std::erase_if(alive,
                    [&](RequestId id) { return random() % 12 == 0 && scheduler_->remove(id) != nullptr; });
      ASSERT_EQ(scheduler_->audit(), "") << "seed " << seed << " round " << round;
    }
    scheduler_->remove_all();
    EXPECT_EQ(pool().num_free(), pool().num_pages());
    EXPECT_THAT(scheduler_->schedule(batch_), IsEmpty());
    add(next, numbers(12));  // nothing is announced any more: who comes now runs at once
    EXPECT_EQ(step().size(), 1u);
  }
}

}  // namespace
}  // namespace guildhall
