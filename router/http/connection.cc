// The only file that includes Beast: its parser reads requests; answers are plain bytes.
#include "router/http/connection.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/log.h"
#include "router/http/client_socket.h"
#include "router/http/completion_reply.h"
#include "router/http/experts_reply.h"
#include "router/http/peer_reply.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Parser = http::request_parser<http::string_body>;
using ErrorCode = boost::system::error_code;

constexpr auto kAwaitTuple = asio::as_tuple(asio::use_awaitable);

// How long a closing connection goes on discarding input, so that the client reads our answer rather than a
// reset.
constexpr std::chrono::milliseconds kLingerAfterLargeBody{10'000};
constexpr std::chrono::milliseconds kLingerAfterAnswer{2'000};

class BeastConnection final : public Connection, public std::enable_shared_from_this<BeastConnection> {
 public:
  BeastConnection(asio::ip::tcp::socket socket, const HttpService& service, bool crowded,
                  std::function<void()> on_end)
      : client_(std::make_shared<ClientSocket>(std::move(socket), service.options().write_timeout)),
        service_(service),
        crowded_(crowded),
        on_end_(std::move(on_end)),
        buffer_(service.options().max_header_bytes + (64u << 10)) {
    ++service_.counters().num_connections;
  }
  ~BeastConnection() override { --service_.counters().num_connections; }

  void start() {
    asio::co_spawn(
        client_->stream().get_executor(), [self = shared_from_this()] { return self->run(); },
        [self = shared_from_this()](std::exception_ptr failure) { self->end(failure); });
  }

  void drain() override {
    asio::post(client_->stream().get_executor(), [self = shared_from_this()] {
      self->draining_ = true;
      if (self->idle_) self->client_->cancel_reads();
    });
  }

  void cut() override {
    asio::post(client_->stream().get_executor(), [self = shared_from_this()] { self->client_->cut(); });
  }

 private:
  enum class Read { request, refused, closed };

  Task<void> run();
  Task<bool> await_first_byte();
  Task<Read> read_request();
  Task<Read> read_body(Parser& parser);
  void take_request(Parser& parser);
  Read authenticate(const Parser& parser);
  Read failed(ErrorCode error, bool body_under_way);
  Task<void> answer();
  void end(std::exception_ptr failure);

  std::shared_ptr<ClientSocket> client_;
  const HttpService& service_;
  const bool crowded_;
  std::function<void()> on_end_;
  beast::flat_buffer buffer_;
  HttpRequest request_;  // under way
  ApiError refusal_;     // why it was not read, with Read::refused
  bool idle_ = false, draining_ = false;
};

Task<void> BeastConnection::run() {
  while (!client_->gone()) {
    Read read = co_await read_request();
    if (read == Read::closed) break;
    std::chrono::milliseconds linger = kLingerAfterAnswer;
    if (read == Read::refused) {
      request_.keep_alive = false;
      if (refusal_.http_status == 413) linger = kLingerAfterLargeBody;
      log_debug("http_refused", "request_id={} status={} reason={}", request_.request_id,
                refusal_.http_status, refusal_.code);
      service_.count_answer(request_, refusal_.http_status);
      std::string bytes = to_bytes(error_reply(refusal_), request_);
      co_await client_->write_all(bytes);
    } else {
      if (draining_ || crowded_) request_.keep_alive = false;
      co_await answer();
    }
    if (!request_.keep_alive || draining_) {
      co_await client_->linger(linger);
      break;
    }
  }
}

Task<void> BeastConnection::answer() {
  if (HttpService::is_completion(request_) && !crowded_) {
    const size_t room = buffer_.max_size() - buffer_.size();
    service_.count_answer(request_, co_await answer_completion(*client_, service_, request_, room));
    std::string early = client_->take_early();
    auto space = buffer_.prepare(early.size());
    asio::buffer_copy(space, asio::buffer(early));
    buffer_.commit(early.size());
    co_return;
  }
  HttpReply reply;
  if (HttpService::is_experts(request_))
    reply = co_await answer_experts(service_, request_);
  else if (HttpService::is_completion(request_))
    reply = error_reply({503,
                         fmt::format("this server has all of its {} connections in use; try again later",
                                     service_.options().max_connections),
                         "", "too_many_connections"});
  else
    reply = service_.respond(request_);
  service_.count_answer(request_, reply.status);
  std::string bytes = to_bytes(reply, request_);
  co_await client_->write_all(bytes);
}

// Between requests a client may take its time; once it has begun, the read timeout holds for the whole
// request.
Task<bool> BeastConnection::await_first_byte() {
  if (buffer_.size() > 0) co_return true;
  if (draining_) co_return false;
  idle_ = true;
  client_->arm(service_.options().idle_timeout);
  auto space = buffer_.prepare(4096);
  size_t count = co_await client_->read_some(static_cast<char*>(space.data()), space.size());
  client_->disarm();
  idle_ = false;
  buffer_.commit(count);
  co_return count > 0;
}

Task<BeastConnection::Read> BeastConnection::read_request() {
  request_ = HttpRequest{};
  if (!co_await await_first_byte()) co_return Read::closed;
  Parser parser;
  parser.header_limit(service_.options().max_header_bytes);
  parser.body_limit(static_cast<uint64_t>(service_.options().max_body_bytes));
  client_->arm(service_.options().read_timeout);
  auto [error, count] = co_await http::async_read_header(client_->stream(), buffer_, parser, kAwaitTuple);
  (void)count;
  take_request(parser);
  Read read = error ? failed(error, /*body_under_way=*/false) : authenticate(parser);
  if (read == Read::request && !parser.is_done()) read = co_await read_body(parser);
  client_->disarm();
  co_return read;
}

Task<BeastConnection::Read> BeastConnection::read_body(Parser& parser) {
  beast::string_view expect = parser.get()[http::field::expect];
  if (!expect.empty() && !request_.http_1_0) {
    if (!beast::iequals(expect, "100-continue")) {
      refusal_ = {417, "the only expectation this server meets is 100-continue", "", "expectation_failed"};
      co_return Read::refused;
    }
    if (!co_await client_->write_all("HTTP/1.1 100 Continue\r\n\r\n")) co_return Read::closed;
    client_->arm(service_.options().read_timeout);  // the write had its own deadline
  }
  auto [error, count] = co_await http::async_read(client_->stream(), buffer_, parser, kAwaitTuple);
  (void)count;
  if (error) co_return failed(error, /*body_under_way=*/true);
  request_.body = std::move(parser.get().body());
  co_return Read::request;
}

// What is known of the request, also when only part of its head could be read.
void BeastConnection::take_request(Parser& parser) {
  const auto& head = parser.get();
  request_.method = std::string(head.method_string());
  std::string_view target(head.target().data(), head.target().size());
  const size_t path_end = std::min(target.find('?'), target.size());
  request_.path = std::string(target.substr(0, path_end));
  request_.query = std::string(target.substr(std::min(path_end + 1, target.size())));
  beast::string_view id = head["x-request-id"];
  request_.request_id = request_id_from({id.data(), id.size()});
  const auto text = [&](http::field field) { return std::string(head[field]); };
  request_.cors_lines = service_.cors().answer_lines(text(http::field::origin));
  if (request_.method == "OPTIONS" && head.find(http::field::access_control_request_method) != head.end())
    request_.preflight =
        Preflight{text(http::field::origin), text(http::field::access_control_request_headers)};
  request_.http_1_0 = parser.is_header_done() && head.version() < 11;
  request_.keep_alive = parser.is_header_done() && parser.keep_alive();
}

// Before the body is read: strangers send no megabytes. Browsers ask without a key what pages may send.
BeastConnection::Read BeastConnection::authenticate(const Parser& parser) {
  const beast::string_view authorization = parser.get()[http::field::authorization];
  request_.authorization = std::string(authorization);
  if (request_.method == "OPTIONS" && parser.is_done()) return Read::request;
  request_.from_peer = parser.get().find({kHopHeader.data(), kHopHeader.size()}) != parser.get().end();
  ApiResult<Tenant> tenant = service_.authenticate(request_, {authorization.data(), authorization.size()});
  if (!tenant) {
    refusal_ = tenant.error();
    return Read::refused;
  }
  request_.tenant = *std::move(tenant);
  return Read::request;
}

BeastConnection::Read BeastConnection::failed(ErrorCode error, bool body_under_way) {
  const HttpServerOptions& options = service_.options();
  if (client_->timed_out() && error == asio::error::operation_aborted) {
    refusal_ = {408,
                fmt::format("the request's {} took longer than {} ms to arrive",
                            body_under_way ? "body" : "head", options.read_timeout.count()),
                "", "request_timeout"};
  } else if (error == http::error::body_limit) {
    refusal_ = {413,
                fmt::format("the body is larger than this server takes; the largest is {} bytes",
                            options.max_body_bytes),
                "", "body_too_large"};
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    refusal_ = {431,
                fmt::format("the request's head is larger than this server takes; the largest is {} bytes",
                            options.max_header_bytes),
                "", "headers_too_large"};
  } else if (error.category() == make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    refusal_ = {400, fmt::format("this is not an HTTP/1.1 request: {}", error.message()), "", "bad_http"};
  } else {
    return Read::closed;
  }
  return Read::refused;
}

void BeastConnection::end(std::exception_ptr failure) {
  if (failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      log_error("http_connection_failed", "request_id={} error={}", request_.request_id, error.what());
    }
  }
  client_->cut();
  on_end_();
}

}  // namespace

std::shared_ptr<Connection> make_connection(asio::ip::tcp::socket socket, const HttpService& service,
                                            bool crowded, std::function<void()> on_end) {
  return std::make_shared<BeastConnection>(std::move(socket), service, crowded, std::move(on_end));
}

void start(const std::shared_ptr<Connection>& connection) {
  std::static_pointer_cast<BeastConnection>(connection)->start();
}

}  // namespace guildhall
