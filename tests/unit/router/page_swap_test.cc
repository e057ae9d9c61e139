// page_swap_test.cc: preempted sequences find the bytes of their pages again, and no page is lost.
#include "router/page_swap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
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

// A scheduler whose steps write to each slot what the model would: something of the token, its position and
// all tokens before it; and check that what a step reads is that.
class PageSwapTest : public ::testing::Test {
 protected:
  void make(int64_t num_pages, int64_t num_swap_pages, bool prefix_caching, SchedulerOptions options = {},
            Preemption preemption = Preemption::swap) {
    scheduler_.reset();
    cache_ = *KvCache::create(tiny_gqa_spec(), {.block_size = 4,
                                                .memory_bytes = 256 * 4 * num_pages,
                                                .dtype = DType::f32,
                                                .max_model_len = 16,
                                                .max_tokens = 1 << 20,
                                                .prefix_caching = prefix_caching,
                                                .swap_bytes = 256 * 4 * num_swap_pages});
    options.preemption = preemption;
    scheduler_ = std::make_unique<Scheduler>(options, std::vector<RankCache>{{cache_.get(), ops_.get()}});
  }
  Sequence& add(RequestId id, std::vector<int32_t> prompt, bool scored = false) {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.prompt_ids = s->tokens = std::move(prompt);
    if (scored) s->request.num_prompt_logprobs = 0;
    Sequence& added = *(by_id_[id] = s.get());
    scheduler_->add(std::move(s));
    return added;
  }
  // One step as the engine would run it, each sampled token being 7.
  std::vector<Taken> step() {
    std::vector<Taken> taken;
    for (const ScheduledChunk& c : std::vector(scheduler_->schedule(batch_))) {
      Sequence& s = *c.sequence;
      taken.emplace_back(s.id, c.num_tokens);
      const int64_t end = s.num_computed + c.num_tokens;
      for (int64_t p = s.num_computed; p < end; ++p) write(s, p);
      for (int64_t p = 0; p < end; ++p) check(s, p);
      const bool whole = c.num_tokens == s.num_pending();
      scheduler_->advance(c);
      s.num_prompt_scored += c.num_logits - (whole ? 1 : 0);
      if (whole) s.tokens.push_back(7);
    }
    for (const auto& [id, num_tokens] : taken)
      if (by_id_[id]->tokens.size() >= 16) scheduler_->remove(id);  // the model's length
    return taken;
  }

  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 1});
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_;

 private:
  std::map<RequestId, Sequence*> by_id_;

  static uint8_t content(const Sequence& s, int64_t position, size_t array) {
    uint32_t hash = static_cast<uint32_t>(array);
    for (int64_t p = 0; p <= position; ++p)
      hash = hash * 31 + static_cast<uint32_t>(s.tokens[static_cast<size_t>(p)]) + 1;
    return static_cast<uint8_t>(hash % 251);
  }
  std::span<std::byte> slot(const Sequence& s, int64_t position, const PageArray& array) {
    const int64_t bytes = array.page_bytes / 4;
    const int32_t page = s.pages[static_cast<size_t>(position / 4)];
    return {array.data + page * array.page_bytes + position % 4 * bytes, static_cast<size_t>(bytes)};
  }
  void write(const Sequence& s, int64_t position) {
    for (size_t a = 0; a < cache_->arrays().size(); ++a) {
      const std::span<std::byte> bytes = slot(s, position, cache_->arrays()[a]);
      std::memset(bytes.data(), content(s, position, a), bytes.size());
    }
  }
  void check(const Sequence& s, int64_t position) {
    for (size_t a = 0; a < cache_->arrays().size(); ++a)
      for (const std::byte b : slot(s, position, cache_->arrays()[a]))
        ASSERT_EQ(static_cast<int>(b), content(s, position, a)) << "sequence " << s.id << " at " << position;
  }
};

std::vector<int32_t> numbers(int32_t n, int32_t first = 0) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

TEST_F(PageSwapTest, WhatIsPreemptedGoesOnWhereItWas) {
  for (const bool prefix_caching : {false, true}) {
    make(4, 4, prefix_caching);
    add(1, numbers(7));
    add(2, numbers(3, 50));
    step(), step(), step();  // 2 needs a second page when 1 took the last: preempted
    EXPECT_EQ(scheduler_->counters().swapped, 1);
    EXPECT_EQ(scheduler_->num_waiting(), 1);
    EXPECT_EQ(scheduler_->swap()->num_used(),
              prefix_caching ? 0 : 1);  // its one page is full, and found by its key
    scheduler_->remove(1);
    EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
    EXPECT_EQ(scheduler_->swap()->num_used(), 0);
    EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
    scheduler_->remove_all();
    EXPECT_EQ(cache_->pool().num_free(), 4);
  }
}

TEST_F(PageSwapTest, APageThatIsFoundByItsKeyIsCopiedOnlyWhenItsMemoryIsNeeded) {
  make(5, 4, true);
  add(1, numbers(6));
  add(2, numbers(9, 50));  // three pages, the last with one token
  step();
  EXPECT_EQ(scheduler_->swap()->bytes_out(), 0);
  for (int i = 0; i < 3; ++i) step();  // 1 grows to a third page: 2 goes, its last page to the host
  EXPECT_EQ(scheduler_->counters().swapped, 1);
  EXPECT_EQ(scheduler_->swap()->num_used(), 1);
  for (int i = 0; i < 5; ++i) step();  // 1 grows on
  EXPECT_GT(scheduler_->swap()->num_used(), 1);
  const int64_t bytes_in = scheduler_->swap()->bytes_in();
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
  EXPECT_GT(scheduler_->swap()->bytes_in(), bytes_in);
  EXPECT_EQ(scheduler_->swap()->num_used(), 0);
}

TEST_F(PageSwapTest, WithoutRoomItIsComputedAgain) {
  make(4, 0, false);
  add(1, numbers(7)), add(2, numbers(3, 50));
  step(), step(), step();
  EXPECT_EQ(scheduler_->counters().swapped, 0);
  EXPECT_EQ(scheduler_->counters().recomputed, 1);
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 5}));
}

TEST_F(PageSwapTest, WhatIsCancelledOrFailsGivesItsHostPagesBack) {
  for (const bool all : {false, true}) {
    make(4, 4, false);
    add(1, numbers(7)), add(2, numbers(3, 50));
    step(), step(), step();
    EXPECT_EQ(scheduler_->swap()->num_used(), 1);
    if (all)
      EXPECT_EQ(scheduler_->remove_all().size(), 2u);
    else
      EXPECT_NE(scheduler_->remove(2), nullptr);
    EXPECT_EQ(scheduler_->swap()->num_used(), 0);
  }
}

TEST_F(PageSwapTest, AScoredPromptIsNotScoredTwice) {
  make(4, 4, true);
  add(1, numbers(7)), add(2, numbers(3, 50), /*scored=*/true);
  step(), step(), step();
  EXPECT_EQ(scheduler_->counters().swapped, 1);
  scheduler_->remove(1);
  EXPECT_THAT(step(), ElementsAre(Taken{2, 1}));
}

// Requests of every kind in too little memory of either sort: every byte read is the right one, and in the
// end nothing is held.
TEST_F(PageSwapTest, LosesNothingInACrowd) {
  int64_t num_swapped = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    make(9 + random() % 6, random() % 12, seed % 3 != 0, {.max_sequences = 5, .max_batched_tokens = 7},
         seed % 2 == 0 ? Preemption::swap : Preemption::measured);
    RequestId next = 1;
    std::vector<RequestId> alive;
    for (int round = 0; round < 250; ++round) {
      if (random() % 3 == 0) {
        auto prompt = numbers(static_cast<int32_t>(1 + random() % 12), static_cast<int32_t>(random() % 2));
        if (random() % 4 == 0) prompt.back() = 99;
        add(next, prompt, random() % 6 == 0);
        alive.push_back(next++);
      }
      if (random() % 80 == 0) scheduler_->preempt_all();
      step();
      if (HasFatalFailure()) return;
      std::erase_if(alive, [&](RequestId id) {
        const bool ends = random() % 16 == 0;
        return ends && scheduler_->remove(id) != nullptr;
      });
      ASSERT_EQ(scheduler_->audit(), "") << "seed " << seed << " round " << round;
    }
    num_swapped += scheduler_->counters().swapped;
    scheduler_->remove_all();
    EXPECT_EQ(scheduler_->swap() == nullptr ? 0 : scheduler_->swap()->num_used(), 0);
    EXPECT_EQ(cache_->pool().num_free(), cache_->num_pages());
    EXPECT_EQ(scheduler_->audit(), "");
  }
  EXPECT_GT(num_swapped, 0);
}

}  // namespace
}  // namespace guildhall
