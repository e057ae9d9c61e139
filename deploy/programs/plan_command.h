// plan_command.h: `guildhall plan`: whether a configuration fits its machines, with the arithmetic, and what
// would; before anything is loaded.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"

namespace guildhall {

struct PlanArguments {
  std::filesystem::path config, model;  // one of both; with `model` everything else is a default
  std::optional<std::string> worker_memory, router_memory;  // of each one's device
  std::optional<int> num_workers;                           // instead of the file's
  std::string device;                                       // of all processes; empty: the file's
  std::filesystem::path trace;                              // empty: none
  bool json = false;
  bool suggest = false;  // print a configuration made of what fits
};

// Prints the plan; whether it fits. Errors: what was given cannot be read.
Result<bool> run_plan(const PlanArguments& arguments);

}  // namespace guildhall
