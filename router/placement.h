// placement.h: which worker holds which expert: an immutable, versioned table. Made by the router, sent to
// workers.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace guildhall {

struct Placement {
  uint32_t version = 0;
  int64_t num_workers = 0;
  // worker_le[layer][expert]: index of the worker; empty for layers without experts.
  std::vector<std::vector<int32_t>> worker_le;

  // The experts of each layer that one worker holds, ascending; [L] lists.
  std::vector<std::vector<int32_t>> experts_of(int32_t worker) const;
};

// Experts [w*E/W, (w+1)*E/W) of every layer on worker w: counts differ by one at most.
Placement even_split(const ModelSpec& spec, int64_t num_workers, uint32_t version);

}  // namespace guildhall
