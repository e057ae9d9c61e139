// plan_workspace.h: what steps take beside weights and caches, from shapes alone. Estimates: the buffers that
// a Forward and an ExpertRunner reserve, and the frames under way, at the largest step; libraries' own
// scratch is not in them. On a GPU the router measures instead (kv_memory.h). Pure.
#pragma once

#include <cstdint>

#include "model/shard.h"
#include "proto/exchange.h"

namespace guildhall {

struct StepShape {
  int64_t max_tokens = 0;  // of a step
  RowCodecs codecs;
  Combine combine = Combine::exact;
};

// One replica's, on the rank of `shard`.
int64_t router_workspace_bytes(const ModelShard& shard, const StepShape& step);

// A worker's that holds `held` experts of each layer, when every token of `num_routers` steps chooses as many
// of them as it can.
int64_t worker_workspace_bytes(const ModelSpec& spec, const StepShape& step, int64_t held,
                               int64_t num_routers);

}  // namespace guildhall
