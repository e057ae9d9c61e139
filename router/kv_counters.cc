#include "router/kv_counters.h"

#include <algorithm>

namespace guildhall {

namespace {

void count_spill(const SpillReaders& readers, EngineCounters& counters) {
  const PageSpill& spill = readers.spill();
  const PageSpill::Counters& counted = spill.counters();
  counters.kv_spill_slots_total = spill.num_slots();
  counters.kv_spill_slots_used = spill.num_used();
  counters.kv_spill_pages_written = counted.written;
  counters.kv_spill_pages_read = counted.read;
  counters.kv_spill_bytes_written = counted.written * spill.page_bytes();
  counters.kv_spill_bytes_read = counted.read * spill.page_bytes();
  counters.kv_spill_pages_dropped = counted.dropped;
  counters.kv_spill_pages_damaged = counted.damaged;
  counters.kv_spill_hits = readers.num_hits();
}

}  // namespace

void count_sequences(const Scheduler& scheduler, EngineCounters& counters) {
  counters.running = scheduler.num_running();
  counters.waiting = scheduler.num_waiting();
  const Scheduler::Counters& counted = scheduler.counters();
  counters.preemptions_recompute = counted.recomputed;
  counters.preemptions_swap = counted.swapped;
  counters.prefix_queries = counted.prefix_queries;
  counters.prefix_hits = counted.prefix_hits;
  counters.prefix_tokens_looked_up = counted.tokens_looked_up;
  counters.prefix_tokens_found = counted.tokens_found;
}

void count_pages(KvCache& cache, const Scheduler& scheduler, EngineCounters& counters) {
  const PagePool& pool = cache.pool();
  counters.kv_pages_total = pool.num_pages();
  counters.kv_pages_used = pool.num_pages() - pool.num_free();
  counters.kv_pages_findable = pool.num_findable();
  const int64_t slots = counters.kv_pages_used * pool.block_size();
  counters.kv_slots_empty = std::min(slots, scheduler.num_empty_slots());
  counters.kv_slots_filled = slots - counters.kv_slots_empty;
  if (scheduler.readers() != nullptr) count_spill(*scheduler.readers(), counters);
  const PageSwap* swap = scheduler.swap();
  if (swap == nullptr) return;
  counters.kv_swap_pages_total = swap->num_slots();
  counters.kv_swap_pages_used = swap->num_used();
  counters.kv_swap_bytes_out = swap->bytes_out();
  counters.kv_swap_bytes_in = swap->bytes_in();
}

}  // namespace guildhall
