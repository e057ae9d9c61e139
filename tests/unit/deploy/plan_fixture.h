// plan_fixture.h: configurations to be planned for the smallest models: expert bytes are 3 matrices of 8x16
// in bf16, 768 in all, in one layer of two.
#pragma once

#include <fmt/format.h>

#include "deploy/programs/plan_memory.h"
#include "proto/config_yaml.h"
#include "tests/unit/router/specs.h"

namespace guildhall {

inline constexpr int64_t kExpertBytes = 3 * 8 * 16 * 2;

// `workers` are items of experts.workers without name and address; `more` is YAML of the top level.
inline config::Config planned_config(const std::vector<std::string>& workers, const std::string& router = "",
                                     const std::string& more = "") {
  std::string text = "model: {path: nowhere, load: dummy, max_model_len: 64}\nexperts:\n  workers:\n";
  for (size_t w = 0; w < workers.size(); ++w)
    text += fmt::format("    - {{name: w{}, address: \"10.0.0.{}:7000\"{}{}}}\n", w, w + 1,
                        workers[w].empty() ? "" : ", ", workers[w]);
  text += fmt::format("router: {{{}}}\n{}", router, more);
  return parse_config(text, "test.yaml").value();
}

inline PlannedDevices unknown_devices(const config::Config& config) {
  return {std::vector<PlannedDevice>(static_cast<size_t>(std::max(1, config.routers_size()))),
          std::vector<PlannedDevice>(static_cast<size_t>(config.experts().workers_size()))};
}

inline int64_t bytes_of(const ClusterPlan& plan, const std::string& process, const std::string& where,
                        std::string_view what) {
  for (const MemoryNeed& need : plan.needs)
    for (const MemoryItem& item : need.items)
      if (need.process == process && need.where == where && item.what == what) return item.bytes;
  return 0;
}

}  // namespace guildhall
