// metrics.h: GET /metrics: what engine and server count, in the Prometheus text format. Read when it is asked
// for; nothing is kept here. Names, types and meaning: docs/metrics.md.
#pragma once

#include <string>

#include "router/balance_status.h"
#include "router/engine_client.h"
#include "router/expert_monitor.h"
#include "router/http/http_counters.h"
#include "router/status_board.h"

namespace guildhall {

// `engine` is null while the model loads: then only readiness, loading, workers, balancing and HTTP are told.
// `experts` may be null, too; its families are one series per layer and per worker, and never one per expert.
// Where `balance` is off, or null, nothing of it is told.
std::string metrics_text(const ServingStatus& status, const EngineCounters* engine,
                         const ExpertsReport* experts, const HttpCounters& http,
                         const BalanceStatus* balance = nullptr);

}  // namespace guildhall
