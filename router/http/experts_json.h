// experts_json.h: GET /v1/cluster/experts: what may be asked, and the answer as JSON (docs/api.md).
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <limits>
#include <string_view>

#include "router/expert_monitor.h"
#include "router/http/errors.h"

namespace guildhall {

struct ExpertsQuery {
  enum class Format { json, summary, protobuf } format = Format::json;
  enum class Scope { cluster, router } scope = Scope::cluster;
  int64_t first_layer = 0, last_layer = std::numeric_limits<int64_t>::max();
};

// "format=summary&layers=3-9&scope=router". Errors name the parameter and what it may be.
ApiResult<ExpertsQuery> parse_experts_query(std::string_view query);

boost::json::object experts_json(const ExpertsReport& report, const ExpertsQuery& query);
boost::json::object trace_json(const RoutingTraceStatus& trace);

}  // namespace guildhall
