// scheduler.h: continuous batching. Sequences join and leave between steps; a step takes every decoding
// sequence first, then prefill chunks up to the token budget. Memory is KV pages: a sequence is admitted when
// its tokens fit beside a reserve for those that run, and of the running ones the last in priority and age is
// preempted (recomputed later, or its pages kept in host memory: page_swap.h) when a decode finds no page, or
// a more important one no room. Prefill takes what a target for the time between tokens leaves of a step.
// Prompts that begin alike share the pages of their common blocks (prefix caching): who comes later, or comes
// back, begins where the cache ends, waits for a block that another is computing just now, and, while others
// go on, for blocks that are read from the spill file (spill_readers.h). Owner: the engine thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "router/kv_cache.h"
#include "router/page_swap.h"
#include "router/sequence.h"
#include "router/spill_readers.h"
#include "router/step_batch.h"
#include "router/step_budget.h"
#include "router/wait_queue.h"

namespace guildhall {

struct SchedulerOptions {
  int64_t max_sequences = 64;        // running at once
  int64_t max_batched_tokens = 512;  // per step
  // Of all pages, kept back at admission for running sequences to grow into; less when they can't grow so
  // far.
  double reserve_share = 0;
  std::chrono::nanoseconds target_itl{0};  // step_budget.h
  // Where the cache has swap memory: measured, or always the same.
  Preemption preemption = Preemption::measured;
};

// A sequence's share of one step.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  int64_t num_tokens = 0;   // from sequence->num_computed on
  int64_t first_logit = 0;  // range in StepBatch::logit_rows
  int64_t num_logits = 0;
  int64_t first_routed = 0;  // range in StepBatch::routed_rows
  int64_t num_routed = 0;
  int64_t first_routed_position = 0;
};

class Scheduler {
 public:
  // Borrows the caches. Without `spill`, pages that are given up are lost.
  Scheduler(SchedulerOptions options, std::vector<RankCache> cache_r,
            std::unique_ptr<PageSpill> spill = nullptr);

  void add(std::unique_ptr<Sequence> sequence) { waiting_.add(std::move(sequence)); }
  // Takes the sequence out, its pages returned; nullptr when unknown.
  std::unique_ptr<Sequence> remove(RequestId id);
  std::vector<std::unique_ptr<Sequence>> remove_all();

  // Lets those go on who wait for the spill file. At each turn of the engine, between steps.
  void poll();

  // Plans the next step and fills `batch`. Empty when there is nothing to run, or all wait for the spill
  // file. The chunks are valid until the next call that changes the scheduler.
  const std::vector<ScheduledChunk>& schedule(StepBatch& batch);

  // The step that was planned last took this long. Before advance().
  void record_step(int64_t num_tokens, int64_t step_ns);

  // The chunk's keys and values are in the cache: moves its sequence on.
  void advance(const ScheduledChunk& chunk);

  // Puts every running sequence back at the head of the queue, to be recomputed.
  void preempt_all();

  // Checks the books of pages against the sequences there are: what is wrong, or nothing. Between steps.
  std::string audit() const;

  bool idle() const { return running_.empty() && waiting_.empty() && num_reading() == 0; }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return waiting_.size() + num_reading(); }
  struct Counters {
    int64_t recomputed = 0, swapped = 0;  // preemptions
    // Prefix caching, over admitted sequences that looked for their prompt in the cache: how many did, and
    // found some of it; their tokens, and those found.
    int64_t prefix_queries = 0, prefix_hits = 0, tokens_looked_up = 0, tokens_found = 0;
  };
  const PageSwap* swap() const { return swap_.get(); }            // null: preempted sequences are recomputed
  const SpillReaders* readers() const { return readers_.get(); }  // null: nothing is spilled
  const Counters& counters() const { return counters_; }
  // Slots of running sequences' pages that hold no token yet.
  int64_t num_empty_slots() const;

 private:
  int64_t num_decoding() const;
  int64_t num_reading() const { return readers_ == nullptr ? 0 : readers_->size(); }
  void make_way();
  void schedule_running(int64_t& budget);
  void admit_waiting(int64_t& budget);
  enum class Admission { not_yet, runs, reads };
  Admission admit(Sequence& sequence, SpillReaders::Plan& plan);
  int64_t reserved_pages() const;
  std::span<const PrefixKey> shareable_keys(Sequence& sequence) const;
  bool set_tail(Sequence& sequence) const;
  void own(Sequence& sequence, size_t block);
  int64_t restore(Sequence& sequence, std::span<const PrefixKey> keys, size_t there);
  void begin_at(Sequence& sequence, int64_t num_tokens, std::span<const PrefixKey> keys);
  void let_go(Sequence& sequence);
  bool make_room(Sequence& sequence, int64_t num_tokens);
  enum class Kind { recompute, cheapest };
  void preempt_last(Kind kind);
  void fill(StepBatch& batch);

  SchedulerOptions options_;
  const std::vector<RankCache> cache_r_;
  const KvCache& cache_;  // the first rank's
  PagePool& pool_;
  std::unique_ptr<PageSwap> swap_;         // null: the cache has no swap memory
  std::unique_ptr<SpillReaders> readers_;  // null: no spill file
  StepBudget step_budget_;
  WaitQueue waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // by priority, of one priority the oldest first
  std::vector<ScheduledChunk> chunks_;
  Counters counters_;
};

}  // namespace guildhall
