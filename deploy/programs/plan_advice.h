// plan_advice.h: what would fit: how many workers, redundant experts and tokens of context, or how many
// experts could stay in memory while the others are offloaded; and a configuration made of that. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deploy/programs/plan_memory.h"

namespace guildhall {

struct PlanAdvice {
  std::vector<std::string> lines;
  // Of workers like the one with least memory, for all experts, without and with redundant ones; 0: unknown.
  int64_t workers_needed = 0, workers_for_redundant = 0;
  int64_t redundant_fit = 0;    // of each layer, beyond one of each expert; memory without limit holds all
  int64_t resident = 0;         // experts of each layer that workers' memory holds, of those split evenly
  double resident_share = 1;    // of all
  int64_t largest_context = 0;  // tokens of one sequence; 0: unknown
  std::string offload_yaml;     // empty: all experts fit, are offloaded already, or memory is too small
};

PlanAdvice advise(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan);

// The first `count` workers, more of the last one's kind where there are fewer: with names and addresses that
// are made up.
void set_num_workers(config::Config& config, int count);

// `config` with the memory that the plan leaves its workers for experts, and redundant experts that fit.
// Workers of whose memory nothing is known stay as they are.
config::Config suggest_workers(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan);
// `config` with the KV memory that the plan leaves its routers, as far as sequences can use it, and a context
// that it holds. Unchanged where nothing is known of a router's memory.
config::Config suggest_cache(const config::Config& config, const ModelSpec& spec, const ClusterPlan& plan,
                             const PlannedDevices& devices);

}  // namespace guildhall
