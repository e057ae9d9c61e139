// config_check.h: what must hold between keys: names unique, addresses well-formed, required ones present.
// Ranges and allowed values of single keys are the reader's (config_schema.h).
#pragma once

#include <string>
#include <vector>

#include "proto/config.pb.h"

namespace guildhall {

struct ConfigProblem {
  std::string key;      // "experts.workers[1].address"
  std::string message;  // what is wrong, and what would work
};

// Fills in defaults that depend on other keys: model.name, the hosts of routers and workers, the loopback worker.
void derive_defaults(config::Config& config);

// In schema order; empty: the configuration can be started.
std::vector<ConfigProblem> check_config(const config::Config& config);

}  // namespace guildhall
