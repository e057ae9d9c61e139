#include "deploy/programs/health_client.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>

namespace guildhall {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace json = boost::json;

using Response = http::response<http::string_body>;

// Connect, ask and read within one timeout; runs the io_context by itself.
class Query {
 public:
  Query(const HostPort& address, std::chrono::milliseconds timeout) : address_(address) {
    stream_.expires_after(timeout);
  }

  Result<Response> run() {
    beast::error_code error;
    asio::ip::tcp::resolver resolver(io_);
    const auto endpoints = resolver.resolve(address_.host, std::to_string(address_.port), error);
    if (error) return failed("resolve", error);
    step([&](auto done) { stream_.async_connect(endpoints, [done](auto e, const auto&) { done(e); }); },
         error);
    if (error) return failed("connect", error);
    http::request<http::empty_body> request{http::verb::get, "/health", 11};
    request.set(http::field::host, to_string(address_));
    step([&](auto done) { http::async_write(stream_, request, [done](auto e, size_t) { done(e); }); }, error);
    if (error) return failed("write", error);
    Response response;
    beast::flat_buffer buffer;
    step([&](auto done) { http::async_read(stream_, buffer, response, [done](auto e, size_t) { done(e); }); },
         error);
    if (error) return failed("read", error);
    return response;
  }

 private:
  template <class Start>
  void step(Start start, beast::error_code& error) {
    start([&error](const beast::error_code& e) { error = e; });
    io_.restart();
    io_.run();
  }
  Status failed(std::string_view what, const beast::error_code& error) const {
    return {Code::unavailable,
            fmt::format("router at {}: {}: {}", to_string(address_), what, error.message())};
  }

  HostPort address_;
  asio::io_context io_;
  beast::tcp_stream stream_{io_};
};

std::string text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

int64_t number(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

WorkerHealth read_worker(const json::object& w) {
  return {.name = text(w, "name"),
          .address = text(w, "address"),
          .state = text(w, "state"),
          .transport = text(w, "transport"),
          .error = text(w, "error"),
          .bytes_done = number(w, "bytes_done"),
          .bytes_total = number(w, "bytes_total"),
          .num_experts = number(w, "num_experts"),
          .resident_bytes = number(w, "resident_bytes")};
}

}  // namespace

Result<RouterHealth> query_health(const HostPort& address, std::chrono::milliseconds timeout) {
  GH_ASSIGN(const Response response, Query(address, timeout).run());
  boost::system::error_code error;
  const json::value body = json::parse(response.body(), error);
  if (error || !body.is_object())
    return Status{Code::data_loss,
                  fmt::format("router at {}: /health is no JSON object", to_string(address))};
  const json::object& object = body.get_object();
  RouterHealth health{.ready = response.result() == http::status::ok,
                      .state = text(object, "state"),
                      .message = text(object, "message"),
                      .kv_capacity_tokens = number(object, "kv_capacity_tokens")};
  if (const json::value* router = object.if_contains("router"); router != nullptr && router->is_object()) {
    health.bytes_done = number(router->get_object(), "bytes_done");
    health.bytes_total = number(router->get_object(), "bytes_total");
  }
  if (const json::value* workers = object.if_contains("workers"); workers != nullptr && workers->is_array())
    for (const json::value& worker : workers->get_array())
      if (worker.is_object()) health.workers.push_back(read_worker(worker.get_object()));
  if (const json::value* all = object.if_contains("replicas"); all != nullptr && all->is_array())
    for (const json::value& replica : all->get_array())
      if (replica.is_object())
        health.replicas.push_back({text(replica.get_object(), "name"), text(replica.get_object(), "state")});
  return health;
}

}  // namespace guildhall
