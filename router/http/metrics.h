// metrics.h: GET /metrics: what engine and server count, in the Prometheus text format. Read when it is asked
// for; nothing is kept here. Names, types and meaning: docs/metrics.md.
#pragma once

#include <string>

#include "router/engine_client.h"
#include "router/http/http_counters.h"
#include "router/status_board.h"

namespace guildhall {

// `engine` is null while the model loads: then only readiness, loading, workers and HTTP are told.
std::string metrics_text(const ServingStatus& status, const EngineCounters* engine, const HttpCounters& http);

}  // namespace guildhall
