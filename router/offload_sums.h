// offload_sums.h: what a worker that offloads experts has told of them (control.OffloadLoads): sums since its
// process began, but for what is resident, which is as of now.
#pragma once

#include <cstdint>

namespace guildhall {

struct OffloadSums {
  int64_t hits = 0, waits = 0;  // experts that runs needed: in memory when the run began, or not
  int64_t wait_ns = 0;          // that runs stood still for them
  int64_t loaded_bytes = 0;
  int64_t prefetched_used = 0, prefetched_unused = 0;  // brought in by prediction
  int64_t evictions = 0, load_errors = 0;
  int64_t resident_experts = 0, resident_bytes = 0;
};

}  // namespace guildhall
