// balance_command.h: `guildhall balance`: replays a routing trace against policies, offline.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace guildhall {

struct BalanceArguments {
  std::filesystem::path trace, config;
  std::vector<std::string> policies;  // empty: the configuration's, beside static
  std::filesystem::path html;         // empty: no picture
  bool show_layers = false;           // balancedness of each layer
  // A worker of speed 1, for predicted times.
  double read_gb_per_s = 20;                           // of weights from its memory
  double gflop_per_s = 200;                            // of arithmetic
  std::optional<double> move_gb_per_s, move_slowdown;  // instead of the configuration's
};

// Prints, per policy: balancedness, experts and bytes moved, predicted step time, memory per worker; and why.
Result<void> run_balance(const BalanceArguments& arguments);

}  // namespace guildhall
