#include "router/http/experts_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <optional>

namespace guildhall {
namespace {

namespace json = boost::json;

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// "3" or "3-9".
bool parse_layers(std::string_view text, ExpertsQuery& query) {
  const size_t dash = text.find('-');
  const auto first = number(text.substr(0, dash));
  const auto last = dash == text.npos ? first : number(text.substr(dash + 1));
  if (!first || !last || *last < *first) return false;
  query.first_layer = *first, query.last_layer = *last;
  return true;
}

bool parse_parameter(std::string_view name, std::string_view value, ExpertsQuery& query) {
  using Format = ExpertsQuery::Format;
  using Scope = ExpertsQuery::Scope;
  if (name == "layers") return parse_layers(value, query);
  if (name == "format" && value == "json") return query.format = Format::json, true;
  if (name == "format" && value == "summary") return query.format = Format::summary, true;
  if (name == "format" && value == "protobuf") return query.format = Format::protobuf, true;
  if (name == "scope" && value == "router") return query.scope = Scope::router, true;
  if (name == "scope" && value == "cluster") return query.scope = Scope::cluster, true;
  return false;
}

double rounded(double value, double parts) { return std::round(value * parts) / parts; }
double ms(double ns) { return std::round(ns) / 1e6; }

json::array names(const std::vector<std::string>& list) {
  json::array all;
  for (const std::string& name : list) all.push_back(json::string(name));
  return all;
}

json::array expert_list(const ExpertsReport& report, int64_t layer) {
  const auto workers_e = report.workers_of_experts(layer);
  json::array list;
  for (size_t e = 0; e < workers_e.size(); ++e) {
    const ExpertLoad& load = report.loads.load_le[static_cast<size_t>(layer)][e];
    const std::optional<double> ns = report.attributed_ns(load, workers_e[e]);
    json::array workers;
    for (const int32_t w : workers_e[e])
      workers.push_back(json::string(report.workers[static_cast<size_t>(w)].view.name));
    list.push_back({{"expert", e},
                    {"prefill_tokens", load.prefill_tokens},
                    {"decode_tokens", load.decode_tokens},
                    {"activations", load.active_steps},
                    {"decode_activations", load.decode_active_steps},
                    {"bytes", load.active_steps * report.shape.expert_bytes},
                    {"attributed_ms", ns ? json::value(ms(*ns)) : json::value(nullptr)},
                    {"workers", std::move(workers)}});
  }
  return list;
}

void add_traffic(const WorkerTraffic& traffic, json::object& to) {
  to["frames"] = traffic.frames;
  to["pairs"] = traffic.pairs;
  to["bytes_sent"] = traffic.bytes_sent;
  to["bytes_received"] = traffic.bytes_received;
  to["answer_ms"] = ms(static_cast<double>(traffic.answer_ns));
}

json::object layer_object(const ExpertsReport& report, int64_t layer, bool with_experts) {
  int64_t prefill = 0, decode = 0, activations = 0;
  for (const ExpertLoad& load : report.loads.load_le[static_cast<size_t>(layer)])
    prefill += load.prefill_tokens, decode += load.decode_tokens, activations += load.active_steps;
  json::array workers;
  for (size_t w = 0; w < report.workers.size(); ++w) {
    json::object worker{{"worker", report.workers[w].view.name}};
    add_traffic(report.traffic_w(layer)[w], worker);
    workers.push_back(std::move(worker));
  }
  json::object object{{"layer", layer},
                      {"balancedness", rounded(report.balancedness(layer), 1e6)},
                      {"hottest_ratio", rounded(report.hottest_ratio(layer), 1e6)},
                      {"prefill_tokens", prefill},
                      {"decode_tokens", decode},
                      {"activations", activations},
                      {"workers", std::move(workers)}};
  if (with_experts) object["experts"] = expert_list(report, layer);
  return object;
}

json::value costs_value(const std::optional<StepCosts>& costs) {
  if (!costs) return nullptr;
  return json::object{{"pair_ns", rounded(costs->pair_ns, 1e3)},
                      {"activation_ns", rounded(costs->activation_ns, 1e3)}};
}

json::object offload_object(const OffloadSums& sums) {
  return {{"resident_experts", sums.resident_experts},
          {"resident_bytes", sums.resident_bytes},
          {"hits", sums.hits},
          {"waits", sums.waits},
          {"wait_ms", ms(static_cast<double>(sums.wait_ns))},
          {"loaded_bytes", sums.loaded_bytes},
          {"prefetched_used", sums.prefetched_used},
          {"prefetched_unused", sums.prefetched_unused},
          {"evictions", sums.evictions},
          {"load_errors", sums.load_errors}};
}

json::object worker_object(const ExpertsReport& report, size_t idx, double all_pairs) {
  const ExpertsReport::Worker& worker = report.workers[idx];
  int64_t num_experts = 0;
  for (const auto& experts : worker.view.experts_l) num_experts += static_cast<int64_t>(experts.size());
  const WorkerTraffic traffic = report.worker_traffic(idx);
  json::object object{
      {"name", worker.view.name},
      {"state", worker.view.state},
      {"experts", num_experts},
      {"memory_bytes", worker.view.resident_bytes},
      {"speed", worker.speed},
      {"share", all_pairs > 0 ? rounded(static_cast<double>(traffic.pairs) / all_pairs, 1e6) : 0}};
  add_traffic(traffic, object);
  object["costs"] = costs_value(worker.costs);
  object["since_start"] = nullptr;
  if (const auto& own = worker.view.own)
    object["since_start"] = json::object{{"runs", own->runs},
                                         {"pairs", own->sums.pairs},
                                         {"activations", own->sums.activations},
                                         {"weight_bytes", own->weight_bytes},
                                         {"compute_ms", ms(static_cast<double>(own->sums.compute_ns))}};
  object["offload"] = nullptr;
  if (worker.view.offload) object["offload"] = offload_object(*worker.view.offload);
  return object;
}

}  // namespace

ApiResult<ExpertsQuery> parse_experts_query(std::string_view text) {
  ExpertsQuery query;
  while (!text.empty()) {
    const std::string_view item = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(item.size() + 1, text.size()));
    const size_t equals = std::min(item.find('='), item.size());
    const std::string_view value = item.substr(std::min(equals + 1, item.size()));
    if (item.empty() || parse_parameter(item.substr(0, equals), value, query)) continue;
    return ApiError{
        400,
        fmt::format("the query has {}; it may have format=json, summary or protobuf, layers=A or A-B, "
                    "and scope=cluster or router",
                    printable(item, 100)),
        printable(item.substr(0, equals), 100), "invalid_value"};
  }
  return query;
}

json::object experts_json(const ExpertsReport& report, const ExpertsQuery& query) {
  double all_pairs = 0;
  for (const WorkerTraffic& traffic : report.traffic_lw) all_pairs += static_cast<double>(traffic.pairs);
  json::array workers, layers;
  for (size_t w = 0; w < report.workers.size(); ++w) workers.push_back(worker_object(report, w, all_pairs));
  for (const int32_t layer : report.shape.moe_layers)
    if (layer >= query.first_layer && layer <= query.last_layer)
      layers.push_back(layer_object(report, layer, query.format == ExpertsQuery::Format::json));
  return {{"model", report.shape.model},
          {"routers", names(report.routers)},
          {"missing", names(report.missing)},
          {"window",
           {{"steps", report.loads.num_steps},
            {"limit", report.window_steps},
            {"seconds", rounded(report.window_s, 1e3)}}},
          {"num_experts", report.shape.num_experts},
          {"top_k", report.shape.top_k},
          {"expert_bytes", report.shape.expert_bytes},
          {"workers", std::move(workers)},
          {"layers", std::move(layers)},
          {"trace", trace_json(report.trace)}};
}

json::object trace_json(const RoutingTraceStatus& trace) {
  json::object object{{"state", to_string(trace.state)}};
  if (trace.file.empty()) return object;
  object["file"] = trace.file;
  object["steps"] = trace.num_steps;
  object["dropped"] = trace.num_dropped;
  object["bytes"] = trace.num_bytes;
  if (!trace.error.empty()) object["error"] = trace.error;
  return object;
}

}  // namespace guildhall
