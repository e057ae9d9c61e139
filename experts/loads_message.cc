#include "experts/loads_message.h"

namespace guildhall {
namespace {

void fill(control::OffloadLoads& loads, const ResidentSums& sums) {
  loads.set_hits(sums.hits);
  loads.set_waits(sums.waits);
  loads.set_wait_ns(sums.wait_ns);
  loads.set_loaded_bytes(sums.loaded_bytes);
  loads.set_prefetched_used(sums.prefetched_used);
  loads.set_prefetched_unused(sums.prefetched_unused);
  loads.set_evictions(sums.evictions);
  loads.set_load_errors(sums.load_errors);
  loads.set_resident_experts(sums.resident_experts);
  loads.set_resident_bytes(sums.resident_bytes);
}

}  // namespace

control::WorkerLoads loads_message(const WorkerCounters& counters) {
  control::WorkerLoads loads;
  loads.set_runs(counters.runs);
  loads.set_pairs(counters.rows_served);
  loads.set_activations(counters.activations);
  loads.set_compute_ns(counters.compute_ns);
  loads.set_weight_bytes(counters.weight_bytes);
  if (counters.offload) fill(*loads.mutable_offload(), *counters.offload);
  return loads;
}

}  // namespace guildhall
