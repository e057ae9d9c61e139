// page_spill_test.cc: pages that the cache gave up come back from the file with their bytes, or are computed
// again; nobody waits for the disk but who wants its pages, and no page, slot or buffer is lost.
#include "router/page_spill.h"

#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "tests/unit/router/disk_limit.h"
#include "tests/unit/router/paged_scheduler.h"
#include "tests/unit/router/spill_folder.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Taken = PagedSchedulerTest::Taken;

// Where the file's threads stop after each job, while it is closed: the first job is done, the next not
// begun.
class Gate {
 public:
  void close() { set(false); }
  void open() { set(true); }
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_open_; });
  }

 private:
  void set(bool is_open) {
    std::lock_guard lock(mutex_);
    is_open_ = is_open;
    changed_.notify_all();
  }
  std::mutex mutex_;
  bool is_open_ = true;
  std::condition_variable changed_;
};

class PageSpillTest : public PagedSchedulerTest {
 protected:
  ~PageSpillTest() override {
    gate_.open();
    scheduler_.reset();  // its threads pass the gate
  }

  struct SpillShape {
    int64_t num_slots = 64, num_buffers = 16;
    bool always_reads = true;
  };
  // A slot takes a page and its header, rounded up to the disk's pages.
  static constexpr int64_t kSlotBytes = 4096;
  void make(const CacheShape& cache, const SpillShape& spill, SchedulerOptions options = {}) {
    const auto make_spill = [&](const std::vector<RankCache>& cache_r) {
      return *PageSpill::create({.name = "r0",
                                 .folder = folder_.path(),
                                 .size_bytes = spill.num_slots * kSlotBytes,
                                 .buffer_bytes = spill.num_buffers * kPageBytes,
                                 .always_reads = spill.always_reads},
                                cache_r, [this] { gate_.pass(); });
    };
    make_scheduler(cache, options, make_spill);
  }
  const PageSpill& spill() { return scheduler_->readers()->spill(); }
  const PageSpill::Counters& counters() { return spill().counters(); }

  void poll_until(const std::function<bool()>& reached) {
    while (!reached()) {
      scheduler_->poll();
      ASSERT_EQ(scheduler_->audit(), "");
      std::this_thread::yield();
    }
  }
  void step_until(const std::function<bool()>& reached) {
    while (!reached() && !HasFatalFailure()) {
      step();
      std::this_thread::yield();
    }
  }
  // Computes the prompt and leaves.
  void pass(RequestId id, const std::vector<int32_t>& prompt) {
    Sequence& s = add(id, prompt);
    step_until([&] { return s.num_generated() > 0; });
    scheduler_->remove(id);
  }
  // Two prompts of three whole blocks each, of which a cache of four pages holds one. The first is in the
  // file.
  void spill_first() {
    pass(1, kFirst);
    pass(2, kSecond);
    poll_until([&] { return counters().written >= 3; });
  }
  // Runs until the sequence has its next token: what was computed for it.
  int64_t tokens_computed_for(RequestId id) {
    int64_t n = 0;
    for (bool ended = false; !ended && !HasFatalFailure();) {
      for (const auto& [taken, num_tokens] : step())
        if (taken == id) n += num_tokens, ended = true;
      std::this_thread::yield();
    }
    return n;
  }

  const std::vector<int32_t> kFirst = numbers(13), kSecond = numbers(13, 50);
  SpillFolder folder_;
  Gate gate_;
};

TEST_F(PageSpillTest, WhatWasGivenUpIsReadAndNotComputed) {
  make({.num_pages = 4}, {});
  spill_first();
  EXPECT_EQ(counters().dropped, 0);
  Sequence& s = add(3, kFirst);
  EXPECT_EQ(tokens_computed_for(3), 1);
  EXPECT_EQ(s.num_found_tokens, 12);
  EXPECT_EQ(counters().read, 3);
  EXPECT_EQ(scheduler_->readers()->num_hits(), 1);
  scheduler_->remove(3);
  EXPECT_EQ(cache_->pool().num_free(), 4);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, WhatIsInMemoryIsGoneOnFrom) {
  make({.num_pages = 4}, {});
  spill_first();
  pass(3, numbers(5));  // brings the first block back, and its second
  poll_until([&] { return counters().written >= 4; });
  const int64_t num_read = counters().read;
  add(4, kFirst);
  EXPECT_EQ(tokens_computed_for(4), 1);
  EXPECT_LT(counters().read - num_read, 3);
}

TEST_F(PageSpillTest, ColdPagesAreWrittenBeforeTheirMemoryIsNeeded) {
  make({.num_pages = 4}, {});
  pass(1, numbers(9));
  scheduler_->poll();
  EXPECT_EQ(spill().num_used(), 0) << "there are unused pages";
  add(2, numbers(2, 50)), add(3, numbers(2, 70));
  step();  // takes these
  poll_until([&] { return counters().written >= 1; });
  EXPECT_EQ(cache_->pool().num_findable(), 4) << "none was given up";
  EXPECT_EQ(counters().dropped, 0);
}

TEST_F(PageSpillTest, OthersGoOnWhileOneWaitsForThePagesOfItsPrompt) {
  make({.num_pages = 8}, {});
  for (RequestId id = 1; id <= 3; ++id) pass(id, numbers(13, static_cast<int32_t>(40 * id)));
  poll_until([&] { return counters().written >= 3; });
  gate_.close();
  add(4, numbers(13, 40));
  add(5, numbers(3, 200));
  step_until([&] { return scheduler_->num_running() == 1; });
  for (int i = 0; i < 3; ++i) EXPECT_THAT(step(), ElementsAre(Taken{5, 1}));
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_EQ(scheduler_->audit(), "");
  gate_.open();
  EXPECT_EQ(tokens_computed_for(4), 1);
}

TEST_F(PageSpillTest, APageThatSeveralWaitForIsReadOnce) {
  make({.num_pages = 8}, {});
  for (RequestId id = 1; id <= 3; ++id) pass(id, numbers(13, static_cast<int32_t>(40 * id)));
  poll_until([&] { return counters().written >= 3; });
  gate_.close();
  const int64_t num_read = counters().read;
  const Sequence &fourth = add(4, numbers(13, 40)), &fifth = add(5, numbers(13, 40));
  step();
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  gate_.open();
  step_until([&] { return scheduler_->num_running() == 2; });
  EXPECT_EQ(fourth.num_found_tokens, 12);
  EXPECT_EQ(fifth.num_found_tokens, 12);
  EXPECT_EQ(counters().read - num_read, 2) << "its first block is in memory";
}

TEST_F(PageSpillTest, WhoIsCancelledWhileReadingLeavesNothingBehind) {
  for (const bool all : {false, true}) {
    make({.num_pages = 4}, {});
    spill_first();
    gate_.close();
    add(3, kFirst);
    step();
    EXPECT_EQ(scheduler_->num_waiting(), 1);
    EXPECT_EQ(scheduler_->num_running(), 0);
    if (all)
      EXPECT_EQ(scheduler_->remove_all().size(), 1u);
    else
      EXPECT_NE(scheduler_->remove(3), nullptr);
    EXPECT_TRUE(scheduler_->idle());
    EXPECT_EQ(cache_->pool().num_free(), 4);
    EXPECT_EQ(scheduler_->audit(), "");
    gate_.open();
    add(4, kFirst);
    EXPECT_EQ(tokens_computed_for(4), 1);
    EXPECT_EQ(scheduler_->audit(), "");
  }
}

TEST_F(PageSpillTest, ItMayEndWhileReadingAndWriting) {
  for (int i = 0; i < 20; ++i) {
    make({.num_pages = 4}, {});
    spill_first();
    pass(3, numbers(13, 90));
    add(4, kFirst);
    step();
    scheduler_.reset();
  }
}

TEST_F(PageSpillTest, ADamagedPageIsComputedAgain) {
  make({.num_pages = 4}, {});
  spill_first();
  for (int64_t slot = 0; slot < counters().written; ++slot) folder_.damage(slot * kSlotBytes + 500);
  add(3, kFirst);
  EXPECT_EQ(tokens_computed_for(3), 13);
  EXPECT_GT(counters().damaged, 0);
  EXPECT_EQ(counters().read, 0);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, AFullDiskTurnsItOff) {
  make({.num_pages = 4}, {});
  spill_first();
  {
    const DiskLimit full(0);
    pass(3, numbers(13, 90)), pass(4, numbers(13, 130));
    poll_until([&] { return !spill().is_on(); });
  }
  EXPECT_EQ(spill().num_slots(), 0);
  EXPECT_EQ(spill().num_used(), 0);
  EXPECT_EQ(std::filesystem::file_size(folder_.open_file()), 0u);
  add(5, kFirst);
  EXPECT_EQ(tokens_computed_for(5), 13);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, WhatASlowDiskCannotTakeIsForgotten) {
  make({.num_pages = 4}, {.num_buffers = 4});
  gate_.close();
  for (RequestId id = 1; id <= 6; ++id) pass(id, numbers(13, static_cast<int32_t>(20 * id)));
  EXPECT_GT(counters().dropped, 0);
  EXPECT_LE(counters().written, 1);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, TheFilesOldestPagesMakeWay) {
  make({.num_pages = 4}, {.num_slots = 4});
  for (RequestId id = 1; id <= 6; ++id) {
    pass(id, numbers(13, static_cast<int32_t>(20 * id)));
    poll_until([&] { return counters().written >= 3 * static_cast<int64_t>(id) - 3; });
  }
  EXPECT_LE(spill().num_used(), 4);
  add(7, numbers(13, 20));
  EXPECT_EQ(tokens_computed_for(7), 13);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, IsReadOnlyWhereThatIsFasterAsMeasured) {
  make({.num_pages = 4}, {.always_reads = false});
  spill_first();
  add(3, kFirst);
  EXPECT_EQ(tokens_computed_for(3), 1) << "to measure it";
  scheduler_->remove(3);
  add(4, numbers(13, 90));
  scheduler_->poll();
  ASSERT_THAT(scheduler_->schedule(batch_), ::testing::SizeIs(1));
  scheduler_->record_step(13, 13);  // 1 ns a token
  scheduler_->remove(4);
  add(5, kFirst);
  EXPECT_EQ(tokens_computed_for(5), 13);
}

TEST_F(PageSpillTest, NobodyWaitsLongerThanComputingTakes) {
  make({.num_pages = 4}, {.always_reads = false});
  add(1, kFirst);
  scheduler_->poll();
  ASSERT_THAT(scheduler_->schedule(batch_), ::testing::SizeIs(1));
  scheduler_->record_step(13, 13);  // 1 ns a token
  scheduler_->preempt_all();
  step();
  scheduler_->remove(1);
  pass(2, kSecond);
  poll_until([&] { return counters().written >= 3; });
  gate_.close();  // the disk hangs after a page
  add(3, kFirst);
  EXPECT_GE(tokens_computed_for(3), 9);
  EXPECT_EQ(scheduler_->audit(), "");
}

TEST_F(PageSpillTest, WhoReadsMakesWayForTheMoreImportantAndForThoseThatRun) {
  make({.num_pages = 4}, {}, {.max_sequences = 1});
  spill_first();
  gate_.close();
  add(3, kFirst, /*scored=*/false, /*priority=*/1);
  step();
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  add(4, numbers(3, 200));
  EXPECT_THAT(step(), ElementsAre(Taken{4, 3})) << "there is one place only";
  EXPECT_EQ(scheduler_->audit(), "");
  gate_.open();
  scheduler_->remove(4);
  EXPECT_LE(tokens_computed_for(3), 13);

  make({.num_pages = 4}, {}, {.max_sequences = 2});
  spill_first();
  add(4, numbers(3, 200));
  step();
  gate_.close();
  add(5, numbers(9));
  step();
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  for (int i = 0; i < 11; ++i) {  // the one that runs grows to four pages
    step();
    ASSERT_EQ(scheduler_->audit(), "");
  }
  gate_.open();
  EXPECT_LE(tokens_computed_for(5), 9);
}

TEST_F(PageSpillTest, PagesOfUnfinishedBlocksStayAway) {
  make({.num_pages = 4}, {});
  pass(1, numbers(3)), pass(2, numbers(3, 20)), pass(3, numbers(3, 40)), pass(4, numbers(3, 60));
  pass(5, numbers(13, 80));
  EXPECT_EQ(counters().dropped, 0);
  EXPECT_EQ(spill().num_used(), 0);
}

// Requests of every kind in too little memory, host memory and file, over a file that is damaged now and
// then: every byte read is the right one, and in the end nothing is held.
TEST_F(PageSpillTest, LosesNothingInACrowd) {
  int64_t num_hits = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    make({.num_pages = 9 + static_cast<int64_t>(random() % 6), .num_swap_pages = seed % 3 == 0 ? 8 : 0},
         {.num_slots = 4 + static_cast<int64_t>(random() % 30),
          .num_buffers = 4 + static_cast<int64_t>(random() % 8),
          .always_reads = seed % 4 != 0},
         {.max_sequences = 5, .max_batched_tokens = 7, .preemption = Preemption::swap});
    RequestId next = 1;
    std::vector<RequestId> alive;
    for (int round = 0; round < 250; ++round) {
      if (random() % 3 == 0) {
        auto prompt =
            numbers(static_cast<int32_t>(1 + random() % 14), static_cast<int32_t>(random() % 3) * 20);
        if (random() % 4 == 0) prompt.back() = 99;
        add(next, prompt, random() % 6 == 0, static_cast<int32_t>(random() % 2));
        alive.push_back(next++);
      }
      if (random() % 80 == 0) scheduler_->preempt_all();
      if (random() % 40 == 0 && spill().num_used() > 0)
        folder_.damage(
            static_cast<int64_t>(random() % static_cast<uint32_t>(spill().num_slots())) * kSlotBytes + 100);
      step();
      if (HasFatalFailure()) return;
      std::erase_if(alive, [&](RequestId id) {
        const bool ends = random() % 16 == 0;
        return ends && scheduler_->remove(id) != nullptr;
      });
      ASSERT_EQ(scheduler_->audit(), "") << "seed " << seed << " round " << round;
      if (random() % 4 == 0) std::this_thread::yield();
    }
    num_hits += scheduler_->readers()->num_hits();
    scheduler_->remove_all();
    EXPECT_EQ(cache_->pool().num_free(), cache_->num_pages());
    EXPECT_EQ(scheduler_->audit(), "");
  }
  EXPECT_GT(num_hits, 0);
}

}  // namespace
}  // namespace guildhall
