// routers.h: the routers of a configuration. A simple file has one, `router`; a file with a list `routers`
// has those, each with the settings of `router` and what the list says of it alone.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "proto/config.pb.h"

namespace guildhall {

struct RouterOfFile {
  config::Router settings;
  std::string listen_key, host_key;  // where the file says so: "routers[1].listen"
};

// In the file's order; never empty.
std::vector<RouterOfFile> routers_of(const config::Config& config);

// The configuration as the router `name` reads it: `router` is its own, and `routers` has the others. An
// empty name means the only router. Errors: not_found, with the names there are.
Result<config::Config> config_of_router(const config::Config& config, const std::string& name);

}  // namespace guildhall
