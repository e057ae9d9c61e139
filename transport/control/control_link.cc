#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <vector>

#include "base/log.h"
#include "base/units.h"
#include "transport/control/link_impl.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kReadBytes = 64u << 10;
constexpr std::chrono::seconds kCloseTimeout{1};  // to flush, and for the peer to hang up

bool is_reply(const control::Envelope& message) {
  using Body = control::Envelope::BodyCase;
  switch (message.body_case()) {
    case Body::kHelloReply:
    case Body::kLoadStatus:
    case Body::kStatusReply:
    case Body::kError:
      return message.id() != 0;
    default:
      return false;
  }
}

}  // namespace

Code code_from_string(std::string_view text) {
  for (const Code code :
       {Code::invalid_argument, Code::not_found, Code::unsupported, Code::data_loss, Code::resource_exhausted,
        Code::unavailable, Code::deadline_exceeded, Code::peer_lost, Code::cancelled})
    if (to_string(code) == text) return code;
  return Code::internal;
}

Status read_error(const control::Error& error) { return {code_from_string(error.code()), error.message()}; }

control::Envelope make_error(const Status& status, uint64_t id) {
  control::Envelope envelope;
  envelope.set_id(id);
  envelope.mutable_error()->set_code(std::string(to_string(status.code)));
  envelope.mutable_error()->set_message(status.message);
  return envelope;
}

LinkImpl::LinkImpl(tcp::socket socket, Side side, std::string peer, const LinkOptions& options,
                   LinkHandlers handlers)
    : socket_(std::move(socket)),
      side_(side),
      peer_(std::move(peer)),
      options_(options),
      handlers_(std::make_shared<const LinkHandlers>(std::move(handlers))),
      handshake_timer_(socket_.get_executor()),
      heartbeat_timer_(socket_.get_executor()),
      close_timer_(socket_.get_executor()) {}

void LinkImpl::start(std::function<void()> on_gone) {
  on_gone_ = std::move(on_gone);
  error_code ignored;  // some systems refuse it on a connection that is gone already; reading will tell
  socket_.set_option(tcp::no_delay(true), ignored);
  if (side_ == Side::accepted) arm_handshake();
  asio::co_spawn(socket_.get_executor(), read_loop(shared_from_this()), asio::detached);
}

void LinkImpl::set_greeted() {
  if (is_closed_) return;
  greeted_ = true;
  assembler_.set_max_bytes(kMaxEnvelopeBytes);
  handshake_timer_.cancel();
  arm_heartbeat();
}

// ---- Receiving

asio::awaitable<void> LinkImpl::read_loop(std::shared_ptr<LinkImpl> self) {
  std::vector<char> buffer(kReadBytes);
  for (;;) {
    auto [error, bytes] =
        co_await self->socket_.async_read_some(asio::buffer(buffer), asio::as_tuple(asio::use_awaitable));
    if (self->is_closed_) co_return;
    if (error && self->closing_) co_return self->fail(*self->closing_);
    if (error == asio::error::eof) co_return self->fail(self->lost("the connection was closed by the peer"));
    if (error) co_return self->fail(self->lost(error.message()));
    self->silent_intervals_ = 0;
    if (self->closing_) continue;  // what arrives now is read only so that the peer sees an orderly end
    self->assembler_.feed({buffer.data(), bytes});
    if (!self->take_messages()) co_return;
  }
}

// Delivers all that is whole; false: the link closed.
bool LinkImpl::take_messages() {
  while (!closing_ && !is_close_asked_) {
    const auto next = assembler_.next();
    if (!next) {
      fail(Status{next.error().code, fmt::format("{}: {}", peer_, next.error().message)});
      return false;
    }
    if (!*next) return true;
    deliver(**next);
    if (is_closed_) return false;
  }
  return true;
}

void LinkImpl::deliver(const control::Envelope& message) {
  if (is_reply(message) && pending_.contains(message.id())) return answer(message.id(), message);
  if (!greeted_ && !greet(message)) return;
  if (message.has_heartbeat()) return;
  if (message.body_case() == control::Envelope::BODY_NOT_SET) {
    const Status why{Code::unsupported,
                     "this release does not know that message; run one release on all hosts"};
    if (message.id() != 0) (void)send(make_error(why, message.id()));
    return log_warn("control_message_ignored", "{}: unknown message", peer_);
  }
  const auto handlers = handlers_;
  if (handlers->on_message) handlers->on_message(shared_from_this(), message);
}

// Whether the first message is one that opens a link. A dialed link is opened by the reply it awaits, so
// whatever comes here on one is out of place.
bool LinkImpl::greet(const control::Envelope& first) {
  using Body = control::Envelope::BodyCase;
  if (side_ == Side::dialed) {
    if (first.has_heartbeat()) return false;
    fail(first.has_error() ? read_error(first.error())
                           : Status{Code::data_loss, peer_ + ": sent another message before its reply"});
    return false;
  }
  const Body body = first.body_case();
  if (body == Body::kHello &&
      control_major(first.hello().protocol_version()) != control_major(kControlVersion)) {
    reject(Status{Code::unsupported,
                  fmt::format(
                      "control protocol {} of '{}' (release {}) does not go with {} here; run one release on "
                      "all hosts",
                      control_major(first.hello().protocol_version()), first.hello().router_name(),
                      first.hello().software_version(), control_major(kControlVersion))},
           first.id());
    return false;
  }
  if (body != Body::kHello && body != Body::kStatusRequest && body != Body::kDrain) {
    reject(Status{Code::invalid_argument, "a link opens with a hello, a status request or a drain"},
           first.id());
    return false;
  }
  set_greeted();
  return true;
}

void LinkImpl::reject(const Status& why, uint64_t id) {
  log_warn("control_link_refused", "{}: {}", peer_, why.message);
  if (auto bytes = reserve(make_error(why, id))) enqueue(*std::move(bytes));
  begin_close(why);
}

void LinkImpl::answer(uint64_t id, const Result<control::Envelope>& reply) {
  auto node = pending_.extract(id);
  if (node.empty()) return;
  node.mapped().timer.cancel();
  if (reply && reply->has_error())
    node.mapped().done(read_error(reply->error()));
  else
    node.mapped().done(reply);
}

void LinkImpl::arm_handshake() {
  handshake_timer_.expires_after(std::chrono::ceil<asio::steady_timer::duration>(options_.handshake_timeout));
  handshake_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (error || self->is_closed_ || self->greeted_) return;
    self->fail(
        Status{Code::deadline_exceeded, fmt::format("{}: no first message within {}", self->peer_,
                                                    format_duration(self->options_.handshake_timeout))});
  });
}

void LinkImpl::arm_heartbeat() {
  heartbeat_timer_.expires_after(std::chrono::ceil<asio::steady_timer::duration>(options_.heartbeat));
  heartbeat_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (error || self->is_closed_) return;
    if (++self->silent_intervals_ > kSilentHeartbeats)
      return self->fail(self->lost(fmt::format("silent for {} heartbeats of {}", kSilentHeartbeats,
                                               format_duration(self->options_.heartbeat))));
    if (self->queue_.empty() && !self->closing_) {  // otherwise the peer hears from us anyway
      control::Envelope beat;
      beat.mutable_heartbeat()->set_sequence(++self->heartbeat_sequence_);
      (void)self->send(beat);
    }
    self->arm_heartbeat();
  });
}

// ---- Sending

// Encodes the message and takes its room in the queue.
Result<std::string> LinkImpl::reserve(const control::Envelope& message) {
  if (is_closed_) return lost("the link is closed");
  auto bytes = encode_envelope(message);
  if (!bytes) return Status{bytes.error().code, fmt::format("{}: {}", peer_, bytes.error().message)};
  if (queued_bytes_.fetch_add(bytes->size()) + bytes->size() > options_.max_queued_bytes) {
    queued_bytes_ -= bytes->size();
    return Status{Code::resource_exhausted,
                  fmt::format("{}: more than {} are waiting to be sent; the peer does not "
                              "read",
                              peer_, format_bytes(options_.max_queued_bytes))};
  }
  return bytes;
}

Result<void> LinkImpl::send(const control::Envelope& message) {
  GH_ASSIGN(std::string bytes, reserve(message));
  asio::post(socket_.get_executor(), [self = shared_from_this(), bytes = std::move(bytes)]() mutable {
    self->enqueue(std::move(bytes));
  });
  return {};
}

void LinkImpl::request(control::Envelope message, std::chrono::nanoseconds timeout, ReplyHandler done) {
  const uint64_t id = next_id_++;
  message.set_id(id);
  auto bytes = reserve(message);
  asio::post(socket_.get_executor(), [self = shared_from_this(), id, timeout, bytes = std::move(bytes),
                                      done = std::move(done)]() mutable {
    if (!bytes) return done(bytes.error());
    if (self->closing_ || self->pending_.size() >= kMaxPendingRequests) {
      self->queued_bytes_ -= bytes->size();
      if (self->closing_) return done(*self->closing_);
      return done(Status{Code::resource_exhausted,
                         fmt::format("{}: {} requests are unanswered", self->peer_, kMaxPendingRequests)});
    }
    asio::steady_timer timer(self->socket_.get_executor());
    timer.expires_after(std::chrono::ceil<asio::steady_timer::duration>(timeout));
    timer.async_wait([self, id, timeout](error_code error) {
      if (error) return;
      self->answer(id, Status{Code::deadline_exceeded,
                              fmt::format("{}: no reply within {}", self->peer_, format_duration(timeout))});
    });
    self->pending_.emplace(id, Pending{std::move(done), std::move(timer)});
    self->enqueue(*std::move(bytes));
  });
}

void LinkImpl::enqueue(std::string bytes) {
  if (closing_) {
    queued_bytes_ -= bytes.size();
    return;
  }
  queue_.push_back(std::move(bytes));
  if (queue_.size() == 1) write_next();
}

void LinkImpl::write_next() {
  asio::async_write(socket_, asio::buffer(queue_.front()),
                    [self = shared_from_this()](error_code error, size_t) {
                      if (self->is_closed_) return;
                      if (error)
                        return self->fail(self->closing_ ? *self->closing_ : self->lost(error.message()));
                      self->queued_bytes_ -= self->queue_.front().size();
                      self->queue_.pop_front();
                      if (!self->queue_.empty()) return self->write_next();
                      if (self->closing_) self->end_sending();
                    });
}

// ---- Closing

void LinkImpl::close(Status why) {
  is_close_asked_ = true;
  asio::post(socket_.get_executor(), [self = shared_from_this(), why = std::move(why)]() mutable {
    self->begin_close(std::move(why));
  });
}

void LinkImpl::begin_close(Status why) {
  if (closing_) return;
  closing_ = std::move(why);
  close_timer_.expires_after(kCloseTimeout);
  close_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (!error && !self->is_closed_) self->fail(*self->closing_);
  });
  if (queue_.empty()) end_sending();
}

// Closing outright with unread bytes would reset the connection and could take our last message with it.
void LinkImpl::end_sending() {
  error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  if (error) fail(*closing_);
}

void LinkImpl::abandon() {
  handlers_ = std::make_shared<const LinkHandlers>();
  on_gone_ = nullptr;
  for (auto& [id, pending] : pending_) pending.done = [](const Result<control::Envelope>&) {};
  fail(lost("abandoned"));
}

void LinkImpl::fail(const Status& why) {
  if (is_closed_.exchange(true)) return;
  const auto self = shared_from_this();
  const bool was_closing = closing_.has_value();
  if (!was_closing) closing_ = why;
  error_code ignored;  // it is closed whatever close() reports
  socket_.close(ignored);
  handshake_timer_.cancel();
  heartbeat_timer_.cancel();
  close_timer_.cancel();
  while (!pending_.empty()) answer(pending_.begin()->first, why);
  const auto handlers = std::exchange(handlers_, std::make_shared<const LinkHandlers>());
  if (greeted_ && handlers->on_closed) handlers->on_closed(self, why);
  const auto gone = std::exchange(on_gone_, nullptr);
  if (gone && !greeted_ && !was_closing) log_warn("control_link_dropped", "{}", why.message);
  if (gone) gone();
}

Status LinkImpl::lost(std::string_view how) const {
  return Status{Code::peer_lost, fmt::format("{}: {}", peer_, how)};
}

}  // namespace guildhall
