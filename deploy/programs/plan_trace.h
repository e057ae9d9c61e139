// plan_trace.h: what a recorded routing trace (proto/TRACE.md) says of a plan: how often the experts that
// tokens choose would be in memory if the hottest stayed there, and how evenly workers would be loaded. All
// is said of the steps it was chosen by, so it is the best that a placement that stays can do.
#pragma once

#include <filesystem>

#include "deploy/programs/plan_memory.h"

namespace guildhall {

struct TraceOutlook {
  int64_t num_steps = 0;
  double resident_pairs = 0;  // part of the tokens' choices whose expert is resident
  double resident_reads = 0;  // part of the (step, expert) reads of weights
  // Balancedness, mean over the layers: split evenly; packed by load; with redundant experts.
  double even = 0, packed = 0, replicated = 0;
  int64_t redundant_experts = 0;  // of `replicated`
};

// Errors: the file is no trace, or one of another model.
Result<TraceOutlook> read_trace_outlook(const std::filesystem::path& file, const config::Config& config,
                                        const ModelSpec& spec, const ClusterPlan& plan);

}  // namespace guildhall
