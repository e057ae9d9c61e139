// cluster_json.h: the bodies of /v1/cluster/...: docs/api.md has their fields.
#pragma once

#include <boost/json.hpp>
#include <vector>

#include "proto/config_diff.h"
#include "router/balance_status.h"

namespace guildhall {

boost::json::object balance_object(const BalanceStatus& status);
boost::json::object reload_object(const std::vector<ConfigChange>& changes);

}  // namespace guildhall
