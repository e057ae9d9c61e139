// link_impl.h: ControlLink over an Asio socket. Private to this folder. Everything but the overrides is
// called on the io thread.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <optional>

#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "transport/control/control_link.h"

namespace guildhall {

// Open -> closing (close() was called: flush, then wait for the peer's end) -> closed (handlers are gone).
class LinkImpl final : public ControlLink, public std::enable_shared_from_this<LinkImpl> {
 public:
  enum class Side { accepted, dialed };

  LinkImpl(boost::asio::ip::tcp::socket socket, Side side, std::string peer, const LinkOptions& options,
           LinkHandlers handlers);

  // `on_gone` is called once when the link has closed for whatever reason, greeted or not.
  void start(std::function<void()> on_gone);
  // A dialed link's peer has answered: from now on its user hears of it.
  void set_greeted();
  // Closes at once and calls nobody.
  void abandon();

  Result<void> send(const control::Envelope& message) override;
  void request(control::Envelope message, std::chrono::nanoseconds timeout, ReplyHandler done) override;
  void close(Status why) override;
  const std::string& peer() const override { return peer_; }

 private:
  struct Pending {
    ReplyHandler done;
    boost::asio::steady_timer timer;
  };

  static boost::asio::awaitable<void> read_loop(std::shared_ptr<LinkImpl> self);
  bool take_messages();
  void deliver(const control::Envelope& message);
  bool greet(const control::Envelope& first);
  void reject(const Status& why, uint64_t id);
  void answer(uint64_t id, const Result<control::Envelope>& reply);
  void arm_handshake();
  void arm_heartbeat();
  Result<std::string> reserve(const control::Envelope& message);
  void enqueue(std::string bytes);
  void write_next();
  void begin_close(Status why);
  void end_sending();
  void fail(const Status& why);
  Status lost(std::string_view how) const;

  boost::asio::ip::tcp::socket socket_;
  const Side side_;
  const std::string peer_;
  const LinkOptions options_;
  std::shared_ptr<const LinkHandlers> handlers_;  // shared: a handler may cause the link to drop them
  std::function<void()> on_gone_;

  EnvelopeAssembler assembler_{kMaxFirstEnvelopeBytes};
  std::deque<std::string> queue_;        // front is being written
  std::atomic<size_t> queued_bytes_{0};  // reserved by senders before they reach queue_
  std::atomic<bool> is_closed_{false};
  std::atomic<bool> is_close_asked_{false};  // nothing is delivered from then on
  std::atomic<uint64_t> next_id_{1};
  std::map<uint64_t, Pending> pending_;
  std::optional<Status> closing_;  // why; set from the first reason on, also when closed
  bool greeted_ = false;
  uint64_t heartbeat_sequence_ = 0;
  int silent_intervals_ = 0;
  boost::asio::steady_timer handshake_timer_, heartbeat_timer_, close_timer_;
};

// "invalid_argument" -> Code; unknown texts are internal.
Code code_from_string(std::string_view text);

}  // namespace guildhall
