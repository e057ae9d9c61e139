// metrics.h: GET /metrics: what the engine counts, in the Prometheus text format. Read when it is asked for;
// nothing is kept here. Names, types and meaning: docs/metrics.md.
#pragma once

#include <string>

#include "router/engine_client.h"
#include "router/status_board.h"

namespace guildhall {

// `engine` is null while the model loads: then only readiness and workers are told.
std::string metrics_text(const ServingStatus& status, const EngineCounters* engine);

}  // namespace guildhall
