// plan_report.h: a plan as tables for people, and as JSON for machines.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deploy/programs/plan_advice.h"
#include "deploy/programs/plan_memory.h"
#include "deploy/programs/plan_trace.h"

namespace guildhall {

struct PlanReport {
  const config::Config& config;
  const ModelSpec& spec;
  ClusterPlan plan;
  PlanAdvice advice;
  std::optional<TraceOutlook> trace;
  std::vector<std::string> notes;  // what was assumed
};

std::string plan_text(const PlanReport& report);
// `suggestion`: a configuration to put in, or empty.
std::string plan_json(const PlanReport& report, const std::string& suggestion);

// Of a step of so many tokens, what is read of experts' weights in expectation.
struct ReadEstimate {
  std::string_view phase;
  int64_t num_tokens = 0;
  double experts = 0;  // of each layer
  double bytes = 0;    // over all layers and workers
};
std::vector<ReadEstimate> estimate_reads(const PlanReport& report);

// Bytes per token and layer for a codec in both directions.
struct WireEstimate {
  std::string codecs;  // "bf16", "fp8 out, bf16 back"
  double out = 0, back_exact = 0, back_reduced = 0;
  bool is_configured = false;
};
std::vector<WireEstimate> estimate_wire(const PlanReport& report);

}  // namespace guildhall
