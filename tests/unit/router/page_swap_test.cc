// page_swap_test.cc: preempted sequences find the bytes of their pages again, and no page is lost.
#include "router/page_swap.h"

#include <random>

#include "tests/unit/router/paged_scheduler.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using Taken = PagedSchedulerTest::Taken;

class PageSwapTest : public PagedSchedulerTest {
 protected:
  void make(int64_t num_pages, int64_t num_swap_pages, bool prefix_caching, SchedulerOptions options = {},
            Preemption preemption = Preemption::swap) {
    options.preemption = preemption;
    make_scheduler(
        {.num_pages = num_pages, .num_swap_pages = num_swap_pages, .prefix_caching = prefix_caching},
        options);
  }
};

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
