#include "transport/control/control_client.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/check.h"
#include "base/clock.h"
#include "base/units.h"
#include "proto/host_port.h"
#include "transport/control/link_impl.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// One dial: attempts until one is answered, the answer is final, or the time is over.
class Dial : public std::enable_shared_from_this<Dial> {
 public:
  Dial(asio::io_context& io, DialOptions options, const control::Envelope& first, LinkHandlers handlers)
      : io_(io),
        options_(std::move(options)),
        first_(first),
        handlers_(std::move(handlers)),
        resolver_(io),
        socket_(io),
        timer_(io),
        answered_(io),
        deadline_(Clock::now() + options_.timeout),
        peer_(options_.name.empty() ? fmt::format("address={}", options_.address)
                                    : fmt::format("worker={} address={}", options_.name, options_.address)) {}

  // `done` is called from here, once, unless abandon() comes first.
  void start(DialHandler done) {
    done_ = std::move(done);
    asio::co_spawn(io_, run(shared_from_this()), asio::detached);
  }

  void abandon() {
    done_ = nullptr;
    resolver_.cancel();
    error_code ignored;  // closed either way
    socket_.close(ignored);
    timer_.cancel();
    answered_.cancel();
    if (link_) link_->abandon();
  }

 private:
  static asio::awaitable<void> run(std::shared_ptr<Dial> self) {
    auto backoff = self->options_.first_backoff;
    for (;;) {
      self->failure_ = Status{};
      co_await attempt(self);
      if (!self->done_) co_return;  // answered or abandoned
      if (!self->is_worth_retrying()) co_return self->finish(self->failure_);
      if (Clock::now() + backoff >= self->deadline_) co_return self->finish(self->give_up());
      self->timer_.expires_after(std::chrono::ceil<Clock::duration>(backoff));
      co_await self->timer_.async_wait(asio::as_tuple(asio::use_awaitable));
      if (!self->done_) co_return;
      backoff = std::min(backoff * 2, self->options_.max_backoff);
    }
  }

  // Leaves failure_ set, or has called done_.
  static asio::awaitable<void> attempt(std::shared_ptr<Dial> self) {
    const auto address = parse_host_port(self->options_.address);
    if (!address) co_return self->fail(address.error().code, address.error().message);
    self->limit_attempt();
    auto [resolve_error, endpoints] = co_await self->resolver_.async_resolve(
        address->host, std::to_string(address->port), asio::as_tuple(asio::use_awaitable));
    if (!self->done_) co_return;
    if (resolve_error) co_return self->fail(Code::peer_lost, self->why(resolve_error));
    self->socket_ = tcp::socket(self->io_);
    auto [connect_error, endpoint] =
        co_await asio::async_connect(self->socket_, endpoints, asio::as_tuple(asio::use_awaitable));
    if (!self->done_) co_return;
    if (connect_error || self->is_late_) co_return self->fail(Code::peer_lost, self->why(connect_error));
    self->timer_.cancel();
    self->greet();
    // The timer is only a thing to wait on: it never expires, the reply cancels it.
    self->answered_.expires_at(Clock::time_point::max());
    co_await self->answered_.async_wait(asio::as_tuple(asio::use_awaitable));
  }

  void greet() {
    link_ = std::make_shared<LinkImpl>(std::move(socket_), LinkImpl::Side::dialed, peer_, options_.link,
                                       handlers_);
    link_->start(nullptr);
    link_->request(first_, attempt_time(),
                   [self = shared_from_this()](const Result<control::Envelope>& reply) {
                     self->answered_.cancel();
                     if (!self->done_) return;
                     if (!reply) {
                       self->failure_ = reply.error();
                       if (!self->failure_.message.starts_with(self->peer_))
                         self->failure_.message = fmt::format("{}: {}", self->peer_, self->failure_.message);
                       std::exchange(self->link_, nullptr)->abandon();
                       return;
                     }
                     self->link_->set_greeted();
                     // The link answers to its owner from here on; what follows in the same read is delivered
                     // after `done`.
                     const DialedLink dialed{std::exchange(self->link_, nullptr),
                                             std::make_shared<const control::Envelope>(*reply)};
                     self->finish(dialed);
                   });
  }

  // Looking up and connecting end when the attempt's time is over.
  void limit_attempt() {
    is_late_ = false;
    timer_.expires_after(std::chrono::ceil<Clock::duration>(attempt_time()));
    timer_.async_wait([weak = weak_from_this()](error_code error) {
      const auto self = weak.lock();
      if (error || !self) return;
      self->is_late_ = true;
      self->resolver_.cancel();
      error_code ignored;  // closed either way
      self->socket_.close(ignored);
    });
  }

  std::chrono::nanoseconds attempt_time() const {
    const std::chrono::nanoseconds left = deadline_ - Clock::now();
    return std::clamp<std::chrono::nanoseconds>(left, std::chrono::milliseconds(1),
                                                options_.link.handshake_timeout);
  }

  std::string why(error_code error) const { return is_late_ ? "no answer" : error.message(); }
  void fail(Code code, std::string_view why) { failure_ = Status{code, fmt::format("{}: {}", peer_, why)}; }

  // Errors that time may cure. Others come from a peer that understood us, or from one that is something
  // else.
  bool is_worth_retrying() const {
    return options_.retry &&
           (failure_.code == Code::peer_lost || failure_.code == Code::deadline_exceeded ||
            failure_.code == Code::unavailable || failure_.code == Code::resource_exhausted);
  }

  Status give_up() const {
    return Status{
        Code::deadline_exceeded,
        fmt::format("{}: not reached within {}; is the process running there, and is the address right?",
                    failure_.message, format_duration(options_.timeout))};
  }

  void finish(const Result<DialedLink>& result) {
    const DialHandler done = std::exchange(done_, nullptr);
    done(result);
  }

  asio::io_context& io_;
  const DialOptions options_;
  const control::Envelope first_;
  const LinkHandlers handlers_;
  tcp::resolver resolver_;
  tcp::socket socket_;
  asio::steady_timer timer_;     // an attempt's limit, then the pause before the next
  asio::steady_timer answered_;  // cancelled when the first message's fate is known
  const Clock::time_point deadline_;
  const std::string peer_;
  DialHandler done_;  // null: finished or abandoned
  std::shared_ptr<LinkImpl> link_;
  Status failure_;  // of the last attempt
  bool is_late_ = false;
};

}  // namespace

struct ControlClient::Impl : std::enable_shared_from_this<ControlClient::Impl> {
  explicit Impl(asio::io_context& io) : io(io) {}
  asio::io_context& io;
  std::shared_ptr<Dial> dial;
  std::weak_ptr<LinkImpl> link;
};

ControlClient::ControlClient(asio::io_context& io) : impl_(std::make_shared<Impl>(io)) {}

ControlClient::~ControlClient() {
  if (const auto dial = std::exchange(impl_->dial, nullptr)) dial->abandon();
  if (const auto link = impl_->link.lock()) link->abandon();
}

void ControlClient::dial(DialOptions options, const control::Envelope& first, LinkHandlers handlers,
                         DialHandler done) {
  GH_CHECK(impl_->dial == nullptr);
  impl_->dial = std::make_shared<Dial>(impl_->io, std::move(options), first, std::move(handlers));
  impl_->dial->start(
      [weak = impl_->weak_from_this(), done = std::move(done)](const Result<DialedLink>& result) {
        const auto impl = weak.lock();
        if (!impl) return;
        impl->dial = nullptr;
        if (result) impl->link = std::static_pointer_cast<LinkImpl>(result->link);
        done(result);
      });
}

Result<control::StatusReply> query_status(const std::string& address, std::chrono::nanoseconds timeout) {
  asio::io_context io;
  ControlClient client(io);
  control::Envelope first;
  first.mutable_status_request();
  DialOptions options{.address = address, .timeout = timeout, .retry = false};
  options.link.handshake_timeout = timeout;
  std::optional<Result<control::StatusReply>> result;
  client.dial(options, first, {}, [&](const Result<DialedLink>& dialed) {
    io.stop();
    if (!dialed)
      result = dialed.error();
    else if (!dialed->reply->has_status_reply())
      result = Status{Code::data_loss,
                      fmt::format("address={}: answered with something else than its status", address)};
    else
      result = dialed->reply->status_reply();
  });
  io.run();
  GH_CHECK(result.has_value());
  return *std::move(result);
}

}  // namespace guildhall
