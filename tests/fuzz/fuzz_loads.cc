// Any bytes as another router's loads: what is accepted fits this one's model and workers, adds up without
// overflow, and is the same after it was written again.
#include <string_view>

#include "base/check.h"
#include "router/loads_message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace guildhall;
  const TraceHeader shape{.model = "m", .num_layers = 4, .num_experts = 8, .top_k = 2, .moe_layers = {1, 2}};
  constexpr int64_t kWorkers = 2;
  const auto loads = read_loads({reinterpret_cast<const char*>(data), size}, shape, kWorkers);
  if (!loads) return 0;
  GH_CHECK(loads->loads.num_steps >= 0 && loads->window_s >= 0);
  GH_CHECK(loads->traffic_lw.size() == 4 * kWorkers && loads->loads.load_le.size() == 4);
  for (const auto& load_e : loads->loads.load_le)
    for (const ExpertLoad& load : load_e) GH_CHECK(load.tokens() >= 0 && load.active_steps >= 0);
  Loads sum = loads->loads;
  for (int i = 0; i < 64; ++i) sum += loads->loads;
  const auto again = read_loads(write_loads(*loads, shape), shape, kWorkers);
  GH_CHECK(again.has_value() && again->router == loads->router && again->traffic_lw == loads->traffic_lw);
  return 0;
}
