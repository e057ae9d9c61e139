// placement.h: which worker holds which expert, as lists. The even split is what workers are asked to load at
// first; what they hold since, they announce (Holdings), and any number of them may hold an expert.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace guildhall {

using ExpertsOfLayer = std::vector<std::vector<int32_t>>;  // [L] ascending expert indices

// What one worker last announced that it may be asked for.
struct Holdings {
  uint32_t version = 0;  // of its process; 0: it has announced nothing
  ExpertsOfLayer experts_l;
  bool offloads = false;  // not all of them are in its memory: hints help it (proto/hint_codec.h)
};

// The experts that there are.
struct ExpertGrid {
  std::vector<bool> is_moe_layer;  // [L]
  int64_t num_experts = 0;         // of each layer that has any
};
ExpertGrid expert_grid(const ModelSpec& spec);

int64_t count_experts(const ExpertsOfLayer& experts_l);  // over all layers

// One worker for each expert.
struct Placement {
  uint32_t version = 0;
  int64_t num_workers = 0;
  // worker_le[layer][expert]: index of the worker; empty for layers without experts.
  std::vector<std::vector<int32_t>> worker_le;

  ExpertsOfLayer experts_of(int32_t worker) const;
};

// Experts [w*E/W, (w+1)*E/W) of every layer on worker w: counts differ by one at most.
Placement even_split(const ModelSpec& spec, int64_t num_workers, uint32_t version);

}  // namespace guildhall
