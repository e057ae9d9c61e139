// cluster_calls.h: what /v1/cluster/... shows of the cluster and has done with it.
#pragma once

#include <functional>
#include <vector>

#include "base/status.h"
#include "proto/config_diff.h"
#include "router/balance_status.h"

namespace guildhall {

// Any thread; empty where there is none.
struct ClusterCalls {
  std::function<BalanceStatus()> balance;
  std::function<Result<std::vector<ConfigChange>>()> reload;  // the configuration file
};

}  // namespace guildhall
