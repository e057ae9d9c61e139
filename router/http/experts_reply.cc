#include "router/http/experts_reply.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "base/log.h"
#include "router/http/ask_loads.h"
#include "router/http/experts_json.h"
#include "router/http/json_fields.h"

namespace guildhall {
namespace {

namespace json = boost::json;

HttpReply json_reply(const json::object& body) {
  HttpReply reply;
  reply.body = json::serialize(body);
  return reply;
}

}  // namespace

Task<HttpReply> answer_experts(const HttpService& service, const HttpRequest& request) {
  const ApiResult<ExpertsQuery> query = parse_experts_query(request.query);
  if (!query) co_return error_reply(query.error());
  ExpertMonitor* const monitor = service.monitor();
  if (!monitor) co_return error_reply(service.not_ready());
  if (query->format == ExpertsQuery::Format::protobuf) {
    HttpReply reply;
    reply.content_type = "application/x-protobuf";
    reply.body = write_loads(monitor->loads(), monitor->recorder().shape());
    co_return reply;
  }
  std::vector<RouterAnswer> answers;
  if (query->scope == ExpertsQuery::Scope::cluster) answers = co_await ask_loads(service.loads_question());
  ExpertsReport report = monitor->report();
  for (const RouterAnswer& answer : answers) {
    if (answer.loads) {
      report.add(*answer.loads);
      continue;
    }
    log_debug("router_loads_missing", "router={} reason=\"{}\"", answer.name, answer.loads.error().message);
    report.missing.push_back(answer.name);
  }
  co_return json_reply(experts_json(report, *query));
}

HttpReply answer_trace(ExpertMonitor& monitor, const HttpRequest& request) {
  const auto answer = [&]() -> ApiResult<json::object> {
    GH_ASSIGN(const json::object fields, parse_json_body(request.body));
    GH_ASSIGN(const auto action, read_string(fields, "action"));
    GH_ASSIGN(const auto name, read_string(fields, "name"));
    RoutingTrace& trace = monitor.recorder().trace();
    if (action != "start" && action != "stop")
      return bad_field("action", R"(is missing or none: it is "start", with a name, or "stop")");
    const auto traced = *action == "start" ? trace.start(std::string(name.value_or(""))) : trace.stop();
    if (traced.has_error()) return to_api_error(traced.error());
    return trace_json(*traced);
  };
  const ApiResult<json::object> result = answer();
  return result ? json_reply(*result) : error_reply(result.error());
}

}  // namespace guildhall
