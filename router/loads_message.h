// loads_message.h: a router's loads as bytes for another router (proto/loads.proto). The reader takes only
// what fits its own model and workers, in numbers whose sums do not overflow.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "router/balance/load_window.h"
#include "router/worker_traffic.h"

namespace guildhall {

inline constexpr size_t kMaxLoadsBytes = 64 << 20;  // 1024 layers of 4096 experts with numbers of 4 bytes
// Of an expert's numbers and of a worker's in one layer: no window of 10^6 steps comes near, and sums over a
// layer's experts, or a worker's layers, of all routers stay within 64 bits.
inline constexpr int64_t kMaxExpertNumber = int64_t{1} << 36, kMaxWorkerNumber = int64_t{1} << 46;

struct RouterLoads {
  std::string router;
  int64_t total_steps = 0;                // since it began
  Loads loads;                            // of its window
  std::vector<WorkerTraffic> traffic_lw;  // [L*W]
  double window_s = 0;                    // from the window's first step to now
};

// Another router's, or why there are none.
struct RouterAnswer {
  std::string name;  // as configured
  Result<RouterLoads> loads;
};

std::string write_loads(const RouterLoads& loads, const TraceHeader& shape);
// data_loss when the bytes are no loads; invalid_argument when they are those of another model or other
// workers.
Result<RouterLoads> read_loads(std::string_view bytes, const TraceHeader& shape, int64_t num_workers);

}  // namespace guildhall
