#include "router/kv_counters.h"

#include <algorithm>

namespace guildhall {

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
  const PageSwap* swap = scheduler.swap();
  if (swap == nullptr) return;
  counters.kv_swap_pages_total = swap->num_slots();
  counters.kv_swap_pages_used = swap->num_used();
  counters.kv_swap_bytes_out = swap->bytes_out();
  counters.kv_swap_bytes_in = swap->bytes_in();
}

}  // namespace guildhall
