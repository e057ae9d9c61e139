// heat_map.h: where the load of experts falls under several placements, as one self-contained HTML page.
#pragma once

#include <string>
#include <vector>

#include "router/balance/loads.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

struct HeatMapInput {
  struct Placed {
    std::string name;
    ReplicaPlacement placement;
  };
  std::string title;
  Loads loads;
  BalanceWorkers workers;
  std::vector<std::string> worker_names;
  std::vector<Placed> placements;  // the first is what the others are compared with
};

// Per placement: layers x workers, and experts x workers of the layer that is least even under the first.
std::string heat_map_html(const HeatMapInput& input);

}  // namespace guildhall
