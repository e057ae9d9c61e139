// expert_report.h: what a request is told of the experts that one of its chunks went through.
#pragma once

#include "router/engine_client.h"
#include "router/routed_experts.h"
#include "router/scheduler.h"

namespace guildhall {

// `event` has the chunk's token, if it gave one. The sequence remembers how much of its prompt was told.
void report_experts(const ScheduledChunk& chunk, const RoutedExperts& routed, EngineEvent& event);

}  // namespace guildhall
