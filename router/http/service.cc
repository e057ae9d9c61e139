#include "router/http/service.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <limits>

#include "base/check.h"
#include "router/http/chat.h"
#include "router/http/cluster_json.h"
#include "router/http/experts_reply.h"
#include "router/http/json_fields.h"
#include "router/http/metrics.h"

namespace guildhall {
namespace {

namespace json = boost::json;

enum class Endpoint {
  none,
  live,
  health,
  load,
  metrics,
  models,
  model,
  tokenizer_info,
  tokenize,
  detokenize,
  apply_template,
  balance,
  reload,
  experts,
  trace,
  completions
};

struct Route {
  std::string_view path, method;
  Endpoint endpoint;
};
constexpr std::string_view kModelsPath = "/v1/models";
constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr std::string_view kCompletionsPath = "/v1/completions";
constexpr std::string_view kChatPath = "/v1/chat/completions";
constexpr std::string_view kExpertsPath = "/v1/cluster/experts";
constexpr Route kRoutes[] = {
    {kCompletionsPath, "POST", Endpoint::completions},
    {kChatPath, "POST", Endpoint::completions},
    {kModelsPath, "GET", Endpoint::models},
    {kExpertsPath, "GET", Endpoint::experts},
    {"/v1/cluster/trace", "POST", Endpoint::trace},
    {"/tokenize", "POST", Endpoint::tokenize},
    {"/detokenize", "POST", Endpoint::detokenize},
    {"/apply-template", "POST", Endpoint::apply_template},
    {"/tokenizer_info", "GET", Endpoint::tokenizer_info},
    {"/v1/cluster/balance", "GET", Endpoint::balance},
    {"/v1/cluster/reload", "POST", Endpoint::reload},
    {"/live", "GET", Endpoint::live},
    {"/health", "GET", Endpoint::health},
    {"/load", "GET", Endpoint::load},
    {"/metrics", "GET", Endpoint::metrics},
};

Route find_route(std::string_view path) {
  for (const Route& route : kRoutes)
    if (route.path == path) return route;
  if (path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size())
    return {path, "GET", Endpoint::model};
  return {path, "", Endpoint::none};
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    auto digit = [&](size_t at) -> int {
      if (at >= text.size()) return -1;
      char c = text[at];
      if (c >= '0' && c <= '9') return c - '0';
      if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
      return -1;
    };
    if (text[i] == '%' && digit(i + 1) >= 0 && digit(i + 2) >= 0) {
      out += static_cast<char>(digit(i + 1) * 16 + digit(i + 2));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string_view to_string(ServingState state) {
  switch (state) {
    case ServingState::loading:
      return "loading";
    case ServingState::ready:
      return "ready";
    case ServingState::degraded:
      return "degraded";
    case ServingState::draining:
      return "draining";
    case ServingState::failed:
      return "failed";
  }
  return "unknown";
}

HttpReply json_reply(const json::object& body) {
  HttpReply reply;
  reply.body = json::serialize(body);
  return reply;
}

json::object model_object(const HttpServerOptions& options) {
  json::object object;
  object["id"] = options.model_name;
  object["object"] = "model";
  object["created"] = 0;  // unknown: a checkpoint does not say when it was made
  object["owned_by"] = "guildhall";
  object["max_model_len"] = options.max_model_len;
  return object;
}

json::object worker_object(const WorkerStatus& worker) {
  json::object object;
  object["name"] = worker.name;
  object["address"] = worker.address;
  object["state"] = worker.state;
  object["bytes_done"] = worker.bytes_done;
  object["bytes_total"] = worker.bytes_total;
  object["num_experts"] = worker.num_experts;
  object["resident_bytes"] = worker.resident_bytes;
  object["transport"] = worker.transport;
  if (!worker.error.empty()) object["error"] = worker.error;
  return object;
}

json::object replica_object(const ReplicaStatus& replica) {
  json::object object;
  object["name"] = replica.name;
  object["state"] = replica.serving ? "ready" : "degraded";
  object["outstanding_tokens"] = replica.outstanding_tokens;
  object["running"] = replica.counters.running;
  object["waiting"] = replica.counters.waiting;
  return object;
}

json::object peer_object(const PeerStatus& peer) {
  json::object object;
  object["name"] = peer.name;
  object["address"] = peer.address;
  object["state"] = peer.answers ? "ready" : "left out";
  object["outstanding_tokens"] = peer.outstanding_tokens;
  return object;
}

}  // namespace

void HttpService::attach(EngineClient& engine, const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids,
                         const ChatTemplate* chat_template, ExpertMonitor* monitor) {
  GH_CHECK(!owned_backend_);
  if (eos_token_ids.empty() && tokenizer.eos_token_id()) eos_token_ids.push_back(*tokenizer.eos_token_id());
  CompletionRules rules{options_.model_name,      options_.max_model_len, &tokenizer,
                        std::move(eos_token_ids), options_.vocab_size,    chat_template,
                        engine.routing()};
  owned_backend_.reset(new ModelBackend{engine, std::move(rules), monitor});
  backend_.store(owned_backend_.get(), std::memory_order_release);
}

bool HttpService::is_completion(const HttpRequest& request) {
  return (request.path == kCompletionsPath || is_chat(request)) && request.method == "POST";
}

bool HttpService::is_chat(const HttpRequest& request) { return request.path == kChatPath; }

bool HttpService::is_experts(const HttpRequest& request) {
  return request.path == kExpertsPath && (request.method == "GET" || request.is_head());
}

ExpertMonitor* HttpService::monitor() const {
  const ModelBackend* ready = backend();
  return ready ? ready->monitor : nullptr;
}

LoadsQuestion HttpService::loads_question() const {
  const RoutingRecorder& recorder = monitor()->recorder();
  return {.routers = options_.routers,
          .authorization = options_.api_keys ? options_.api_keys->router_authorization() : "",
          .shape = recorder.shape(),
          .num_workers = recorder.num_workers()};
}

// Who watches over the service has no key.
ApiResult<Tenant> HttpService::authenticate(const HttpRequest& request,
                                            std::string_view authorization) const {
  const Endpoint endpoint = find_route(request.path).endpoint;
  if (!options_.api_keys || endpoint == Endpoint::live || endpoint == Endpoint::health ||
      endpoint == Endpoint::load || endpoint == Endpoint::metrics)
    return Tenant{.best_priority = std::numeric_limits<int32_t>::min()};
  if (const Tenant* tenant = options_.api_keys->find(authorization)) return *tenant;
  if (endpoint == Endpoint::experts && options_.api_keys->is_router(authorization)) return Tenant{};
  if (authorization.empty())
    return ApiError{401, "an API key is needed: send the header Authorization: Bearer KEY", "",
                    "missing_api_key"};
  return ApiError{401, "this API key is not known here", "", "invalid_api_key"};
}

void HttpService::count_answer(const HttpRequest& request, int status) const {
  const Route route = find_route(request.path);
  const std::string_view endpoint = route.endpoint == Endpoint::none    ? "other"
                                    : route.endpoint == Endpoint::model ? kModelsPath
                                                                        : route.path;
  counters_.count_answer(endpoint, status);
}

ApiError HttpService::not_ready() const {
  ServingStatus status = status_.serving_status();
  std::string why = status.message.empty() ? "" : ": " + status.message;
  return {503,
          fmt::format("the model is not ready ({}){}; GET /health tells the progress",
                      to_string(status.state), why),
          "", "model_not_ready"};
}

HttpReply HttpService::respond(const HttpRequest& request) const {
  Route route = find_route(request.path);
  if (route.endpoint == Endpoint::none) {
    std::string known;
    for (const Route& each : kRoutes)
      known += fmt::format("{}{} {}", known.empty() ? "" : ", ", each.method, each.path);
    return error_reply(
        {404, fmt::format("there is no {}; this server has {}", printable(request.path, 200), known), "",
         "not_found"});
  }
  const std::string methods = route.method == "GET" ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (request.method == "OPTIONS") return options_reply(request, methods);
  bool allowed = request.method == route.method || (request.is_head() && route.method == "GET");
  if (!allowed) {
    HttpReply reply = error_reply({405,
                                   fmt::format("{} takes {}, not {}", printable(route.path, 200),
                                               route.method, printable(request.method, 32)),
                                   "", "method_not_allowed"});
    reply.headers.emplace_back("allow", methods);
    return reply;
  }
  switch (route.endpoint) {
    case Endpoint::live:
      return json_reply({{"status", "live"}});
    case Endpoint::health:
      return health();
    case Endpoint::load:
      return load();
    case Endpoint::metrics:
      return metrics();
    case Endpoint::balance:
      return balance();
    case Endpoint::reload:
      return reload();
    case Endpoint::models:
      return models();
    case Endpoint::model:
      return model(request.path.substr(kModelPrefix.size()));
    default:
      break;
  }
  const ModelBackend* ready = backend();
  if (!ready) return error_reply(not_ready());
  switch (route.endpoint) {
    case Endpoint::tokenizer_info:
      return tokenizer_info(*ready);
    case Endpoint::tokenize:
      return tokenize(*ready, request);
    case Endpoint::apply_template:
      return apply_template(*ready, request);
    case Endpoint::detokenize:
      return detokenize(*ready, request);
    case Endpoint::trace:
      return ready->monitor ? answer_trace(*ready->monitor, request) : error_reply(not_ready());
    default:
      GH_CHECK(false && "these are answered by the connection");
  }
  return {};
}

HttpReply HttpService::options_reply(const HttpRequest& request, const std::string& methods) const {
  if (request.preflight && !cors_.allows(request.preflight->origin))
    return error_reply(
        {403,
         fmt::format("pages of {} may not use this server; router.http.cors_origins lists those "
                     "that may",
                     printable(request.preflight->origin, 200)),
         "", "origin_not_allowed"});
  HttpReply reply;
  reply.status = 204;
  if (request.preflight) reply.headers = cors_.preflight_headers(*request.preflight, methods);
  reply.headers.emplace_back("allow", methods);
  return reply;
}

ServingStatus HttpService::status() const {
  ServingStatus status = status_.serving_status();
  status.peers = peers_.status();
  return status;
}

// What peers ask a few times a second: what a request would meet at the least loaded replica.
HttpReply HttpService::load() const {
  const ServingStatus status = status_.serving_status();
  if (status.state != ServingState::ready || !backend()) return error_reply(not_ready());
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const ReplicaStatus& replica : status.replicas) least = std::min(least, replica.outstanding_tokens);
  return json_reply({{"outstanding_tokens", status.replicas.empty() ? 0 : least}});
}

HttpReply HttpService::balance() const {
  return json_reply(balance_object(options_.cluster.balance ? options_.cluster.balance() : BalanceStatus{}));
}

HttpReply HttpService::reload() const {
  if (!options_.cluster.reload)
    return error_reply({400, "this server was started without a configuration file", "", "invalid_value"});
  const Result<std::vector<ConfigChange>> changes = options_.cluster.reload();
  if (changes.has_error()) return error_reply({400, changes.error().message, "", "invalid_configuration"});
  return json_reply(reload_object(*changes));
}

HttpReply HttpService::health() const {
  ServingStatus status = this->status();
  bool ready = status.state == ServingState::ready && backend();
  json::object body;
  // "ready" may reach the board a moment before the engine reaches us.
  body["state"] = status.state == ServingState::ready && !ready ? "loading" : to_string(status.state);
  if (!status.message.empty()) body["message"] = status.message;
  body["elapsed_s"] = status.elapsed_s;
  body["model"] = options_.model_name;
  body["kv_capacity_tokens"] = status.kv_capacity_tokens;
  json::object router;
  router["bytes_done"] = status.router_bytes_done;
  router["bytes_total"] = status.router_bytes_total;
  body["router"] = std::move(router);
  json::array workers;
  for (const WorkerStatus& worker : status.workers) workers.push_back(worker_object(worker));
  body["workers"] = std::move(workers);
  json::array replicas;
  for (const ReplicaStatus& replica : status.replicas) replicas.push_back(replica_object(replica));
  body["replicas"] = std::move(replicas);
  json::array peers;
  for (const PeerStatus& peer : status.peers) peers.push_back(peer_object(peer));
  body["peers"] = std::move(peers);
  HttpReply reply = json_reply(body);
  reply.status = ready ? 200 : 503;
  if (!ready) reply.headers.emplace_back("retry-after", "1");
  return reply;
}

HttpReply HttpService::metrics() const {
  HttpReply reply;
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  const ModelBackend* ready = backend();
  const EngineCounters counters = ready ? ready->engine.counters() : EngineCounters{};
  std::optional<ExpertsReport> experts;
  if (ready && ready->monitor) experts = ready->monitor->report();
  const BalanceStatus balance = options_.cluster.balance ? options_.cluster.balance() : BalanceStatus{};
  reply.body = metrics_text(status(), ready ? &counters : nullptr, experts ? &*experts : nullptr, counters_,
                            &balance);
  return reply;
}

HttpReply HttpService::models() const {
  json::array data;
  data.push_back(model_object(options_));
  json::object body;
  body["object"] = "list";
  body["data"] = std::move(data);
  return json_reply(body);
}

HttpReply HttpService::model(std::string_view id) const {
  if (percent_decoded(id) != options_.model_name)
    return error_reply(
        {404,
         fmt::format("this server has no model {}; it serves {}", printable(id, 200), options_.model_name),
         "model", "model_not_found"});
  return json_reply(model_object(options_));
}

HttpReply HttpService::tokenizer_info(const ModelBackend& backend) const {
  const Tokenizer& tokenizer = *backend.rules.tokenizer;
  json::object body;
  auto add = [&](std::string_view name, std::optional<int32_t> id) {
    body[name] = id ? json::value(json::string(tokenizer.token_text(*id))) : json::value(nullptr);
    body[std::string(name) + "_id"] = id ? json::value(*id) : json::value(nullptr);
  };
  add("bos_token", tokenizer.bos_token_id());
  add("eos_token", tokenizer.eos_token_id());
  body["vocab_size"] = tokenizer.vocab_size();
  body["model_max_length"] = options_.max_model_len;
  const ChatTemplate* chat_template = backend.rules.chat_template;
  body["chat_template"] = chat_template ? json::value(chat_template->source()) : json::value(nullptr);
  return json_reply(body);
}

HttpReply HttpService::tokenize(const ModelBackend& backend, const HttpRequest& request) const {
  const Tokenizer& tokenizer = *backend.rules.tokenizer;
  auto answer = [&]() -> ApiResult<json::object> {
    GH_ASSIGN(json::object fields, parse_json_body(request.body));
    GH_TRY(check_model(fields, options_.model_name));
    GH_ASSIGN(auto prompt, read_string(fields, "prompt"));
    GH_ASSIGN(auto content, read_string(fields, "content"));
    const bool chat = find_field(fields, "messages") && !prompt && !content;
    if (!prompt && !content && !chat)
      return ApiError{400, "prompt is missing; send the text as prompt or content, or messages", "prompt",
                      "missing_field"};
    EncodeOptions options;
    GH_ASSIGN(options.add_special_tokens, read_bool(fields, "add_special_tokens", !chat));
    GH_ASSIGN(bool with_text, read_bool(fields, "return_token_strs", false));
    std::string rendered;
    if (chat) {
      GH_ASSIGN(rendered, render_chat(fields, backend.rules));
    }
    const std::string_view text = prompt ? *prompt : content ? *content : rendered;
    std::vector<int32_t> ids = tokenizer.encode(text, options);
    json::object body;
    body["count"] = ids.size();
    body["max_model_len"] = options_.max_model_len;
    body["tokens"] = json::array(ids.begin(), ids.end());
    json::array texts;
    if (with_text)
      for (int32_t id : ids) texts.push_back(json::string(tokenizer.token_text(id)));
    body["token_strs"] = with_text ? json::value(std::move(texts)) : json::value(nullptr);
    return body;
  };
  ApiResult<json::object> result = answer();
  return result ? json_reply(*result) : error_reply(result.error());
}

HttpReply HttpService::apply_template(const ModelBackend& backend, const HttpRequest& request) const {
  auto answer = [&]() -> ApiResult<json::object> {
    GH_ASSIGN(json::object fields, parse_json_body(request.body));
    GH_TRY(check_model(fields, options_.model_name));
    GH_ASSIGN(std::string prompt, render_chat(fields, backend.rules));
    return json::object{{"prompt", std::move(prompt)}};
  };
  ApiResult<json::object> result = answer();
  return result ? json_reply(*result) : error_reply(result.error());
}

HttpReply HttpService::detokenize(const ModelBackend& backend, const HttpRequest& request) const {
  const Tokenizer& tokenizer = *backend.rules.tokenizer;
  auto answer = [&]() -> ApiResult<json::object> {
    GH_ASSIGN(json::object fields, parse_json_body(request.body));
    GH_TRY(check_model(fields, options_.model_name));
    const json::value* tokens = find_field(fields, "tokens");
    if (!tokens)
      return ApiError{400, "tokens is missing; send an array of token ids", "tokens", "missing_field"};
    GH_ASSIGN(std::vector<int32_t> ids, read_token_ids(*tokens, "tokens", backend.rules.vocab_size()));
    std::string text = tokenizer.decode(ids, /*skip_special_tokens=*/false);
    // Two servers' names for the same thing; clients read one or the other.
    return json::object{{"prompt", text}, {"content", text}};
  };
  ApiResult<json::object> result = answer();
  return result ? json_reply(*result) : error_reply(result.error());
}

}  // namespace guildhall
