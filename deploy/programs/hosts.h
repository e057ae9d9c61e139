// hosts.h: which of a configuration's processes belong on this machine: `guildhall up` runs on every host
// with the same file, and each one finds its own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "deploy/programs/routers.h"
#include "proto/config.pb.h"

namespace guildhall {

struct HostPlan {
  std::vector<int> workers;  // indices into config.experts().workers()
  std::vector<RouterOfFile> routers;
};

// `host` given: processes whose host (or name) is that word. Otherwise: those whose host is an address of one
// of this machine's interfaces, or resolves to one. The error lists what the file names and what this machine
// has.
Result<HostPlan> plan_for_host(const config::Config& config, const std::optional<std::string>& host);

// Addresses of this machine's interfaces that are up, loopback included.
std::vector<std::string> interface_addresses();

}  // namespace guildhall
