// kv_counters.h: what the scheduler and the KV cache tell of themselves in EngineCounters.
#pragma once

#include "router/engine_client.h"
#include "router/scheduler.h"

namespace guildhall {

void count_sequences(const Scheduler& scheduler, EngineCounters& counters);
void count_pages(KvCache& cache, const Scheduler& scheduler, EngineCounters& counters);

}  // namespace guildhall
