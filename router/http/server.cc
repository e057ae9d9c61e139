#include "router/http/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "router/http/client_socket.h"
#include "router/http/connection.h"
#include "router/http/service.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using ErrorCode = boost::system::error_code;
constexpr auto kAwaitTuple = asio::as_tuple(asio::use_awaitable);

// Connections above max_connections that are still told so; those beyond are closed unanswered.
constexpr size_t kCrowdedConnections = 64;

Status listen_error(const std::string& address, const std::string& what) {
  return {Code::unavailable, fmt::format("cannot listen on {}: {}", address, what)};
}

// "HOST:PORT" or "[IPV6]:PORT"; a host name is looked up.
Result<tcp::endpoint> parse_listen(asio::io_context& context, const std::string& listen) {
  size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  unsigned port = 65536;
  if (colon != std::string::npos) {
    const char* end = listen.data() + listen.size();
    auto [stop, error] = std::from_chars(listen.data() + colon + 1, end, port);
    if (error != std::errc() || stop != end) port = 65536;
  }
  bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (port > 65535 || host.empty() || (!bracketed && host.find(':') != std::string::npos))
    return Status{
        Code::invalid_argument,
        fmt::format("listen address \"{}\" is not HOST:PORT (like 127.0.0.1:8000) or [IPV6]:PORT", listen)};
  ErrorCode error;
  asio::ip::address address = asio::ip::make_address(host, error);
  if (!error) return tcp::endpoint(address, static_cast<uint16_t>(port));
  auto found = tcp::resolver(context).resolve(host, std::to_string(port), tcp::resolver::passive, error);
  if (error || found.empty()) return listen_error(listen, fmt::format("host name {} is not known", host));
  return found.begin()->endpoint();
}

std::string print(const tcp::endpoint& endpoint) {
  std::string host = endpoint.address().to_string();
  return endpoint.address().is_v6() ? fmt::format("[{}]:{}", host, endpoint.port())
                                    : fmt::format("{}:{}", host, endpoint.port());
}

}  // namespace

struct HttpServer::Impl {
  Impl(HttpServerOptions options, const StatusSource& status)
      : service(std::move(options), status, context),
        accept_strand(asio::make_strand(context)),
        acceptor(accept_strand) {}

  Result<void> listen();
  Task<void> accept_loop();
  void adopt(tcp::socket socket);
  void on_end(uint64_t id);
  void stop(std::chrono::milliseconds drain_limit);
  template <class Action>
  void for_each_connection(Action action);

  asio::io_context context;
  HttpService service;
  asio::strand<asio::io_context::executor_type> accept_strand;
  tcp::acceptor acceptor;  // on accept_strand
  tcp::endpoint endpoint;  // as bound
  std::vector<std::thread> threads;

  std::mutex mutex;  // guards what follows
  std::condition_variable all_ended;
  std::unordered_map<uint64_t, std::weak_ptr<Connection>> connections;
  uint64_t next_id = 0;
  bool stopping = false;
};

Result<void> HttpServer::Impl::listen() {
  const std::string& wanted = service.options().listen;
  GH_ASSIGN(endpoint, parse_listen(context, wanted));
  ErrorCode error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
  if (error == asio::error::address_in_use)
    return listen_error(wanted, "the port is in use; stop the process that holds it, or choose another port");
  if (error) return listen_error(wanted, error.message());
  endpoint = acceptor.local_endpoint();
  return {};
}

Task<void> HttpServer::Impl::accept_loop() {
  asio::steady_timer pause(accept_strand);
  while (acceptor.is_open()) {
    auto [error, socket] = co_await acceptor.async_accept(asio::make_strand(context), kAwaitTuple);
    if (error == asio::error::operation_aborted || !acceptor.is_open()) break;
    if (!error) {
      try {
        adopt(std::move(socket));
      } catch (const std::exception& failure) {  // out of memory: this client is dropped, the next one is not
        log_error("http_accept_failed", "listen={} error={}", print(endpoint), failure.what());
      }
      continue;
    }
    // Out of file descriptors, most likely: clients wait in the kernel's queue until some are free again.
    log_warn("http_accept_failed", "listen={} error={}", print(endpoint), error.message());
    pause.expires_after(std::chrono::milliseconds(100));
    co_await pause.async_wait(kAwaitTuple);
  }
}

void HttpServer::Impl::adopt(tcp::socket socket) {
  std::shared_ptr<Connection> connection;
  {
    std::lock_guard lock(mutex);
    auto limit = static_cast<size_t>(service.options().max_connections);
    if (stopping || connections.size() >= limit + kCrowdedConnections) return;
    uint64_t id = next_id++;
    connection =
        make_connection(std::move(socket), service, connections.size() >= limit, [this, id] { on_end(id); });
    connections.emplace(id, connection);
  }
  guildhall::start(connection);
}

void HttpServer::Impl::on_end(uint64_t id) {
  std::lock_guard lock(mutex);
  connections.erase(id);
  if (connections.empty()) all_ended.notify_all();
}

template <class Action>
void HttpServer::Impl::for_each_connection(Action action) {
  std::vector<std::shared_ptr<Connection>> all;
  {
    std::lock_guard lock(mutex);
    for (auto& [id, weak] : connections)
      if (auto connection = weak.lock()) all.push_back(std::move(connection));
  }
  for (auto& connection : all) action(*connection);
}

void HttpServer::Impl::stop(std::chrono::milliseconds drain_limit) {
  {
    std::lock_guard lock(mutex);
    if (std::exchange(stopping, true)) return;
  }
  asio::post(accept_strand, [this] {
    ErrorCode ignored;
    acceptor.close(ignored);
  });
  for_each_connection([](Connection& connection) { connection.drain(); });
  {
    std::unique_lock lock(mutex);
    all_ended.wait_for(lock, drain_limit, [this] { return connections.empty(); });
    if (!connections.empty()) log_warn("http_streams_cut", "connections={}", connections.size());
  }
  for_each_connection([](Connection& connection) { connection.cut(); });
  service.peers().stop();
  for (std::thread& thread : threads) thread.join();  // the context runs out of work
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { stop(std::chrono::milliseconds(0)); }

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpServerOptions options, const StatusSource& status) {
  auto impl = std::make_unique<Impl>(std::move(options), status);
  GH_TRY(impl->listen());
  asio::co_spawn(impl->accept_strand, impl->accept_loop(), asio::detached);
  impl->service.peers().start();
  for (int i = 0; i < std::max(1, impl->service.options().num_threads); ++i)
    impl->threads.emplace_back([context = &impl->context] { context->run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

void HttpServer::attach(EngineClient& engine, const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids,
                        const ChatTemplate* chat_template, ExpertMonitor* monitor) {
  impl_->service.attach(engine, tokenizer, std::move(eos_token_ids), chat_template, monitor);
}

void HttpServer::ask_loads(std::function<void(std::vector<RouterAnswer>)> done) {
  asio::co_spawn(asio::make_strand(impl_->context), guildhall::ask_loads(impl_->service.loads_question()),
                 [done = std::move(done)](std::exception_ptr failure, std::vector<RouterAnswer> answers) {
                   if (!failure) done(std::move(answers));
                 });
}

std::string HttpServer::address() const { return print(impl_->endpoint); }
uint16_t HttpServer::port() const { return impl_->endpoint.port(); }
void HttpServer::stop(std::chrono::milliseconds drain_limit) { impl_->stop(drain_limit); }

}  // namespace guildhall
