// control_link.h: one TCP connection of the control plane, once both ends have greeted each other. Carries
// Envelopes both ways, sends heartbeats, and notices a peer that fell silent. ControlServer and ControlClient
// make links.
//
// Threads: a link lives on one io_context, run by exactly one thread that its owner provides. Handlers are
// called on that thread and must not block it (heartbeats stop while they do). send, request and close: any
// thread. Lifetime: a link lives while it is open or someone holds it; let go of it before the io_context is
// destroyed.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"

namespace guildhall {

namespace control {
class Envelope;
class Error;
}  // namespace control

// A peer that sends nothing for this many of our heartbeat intervals is lost. Counted in intervals in which
// our own thread did run, so that a starved process does not mistake its own pause for its peer's.
inline constexpr int kSilentHeartbeats = 10;

struct LinkOptions {
  std::chrono::nanoseconds heartbeat = std::chrono::milliseconds(500);
  std::chrono::nanoseconds handshake_timeout =
      std::chrono::seconds(5);          // from connection to the first message
  size_t max_queued_bytes = 64u << 20;  // unsent messages; more are refused: the peer does not read
};

class ControlLink;
using LinkPtr = std::shared_ptr<ControlLink>;

struct LinkHandlers {
  // Every message but heartbeats and awaited replies.
  std::function<void(const LinkPtr&, const control::Envelope&)> on_message;
  // Once, last, with the reason: what close() was given, or peer_lost, or data_loss.
  std::function<void(const LinkPtr&, const Status& why)> on_closed;
};

// The reply, or why there is none: an Error reply becomes its own code and message.
using ReplyHandler = std::function<void(const Result<control::Envelope>&)>;

class ControlLink {
 public:
  virtual ~ControlLink() = default;

  // Queues a message. Errors: peer_lost (closed), resource_exhausted (the queue is full), invalid_argument
  // (too large).
  virtual Result<void> send(const control::Envelope& message) = 0;

  // Sends with an id of its own choosing and waits for hello_reply, load_status, status_reply or error with
  // that id. `done` is called exactly once, on the link's thread; after `timeout` with deadline_exceeded.
  virtual void request(control::Envelope message, std::chrono::nanoseconds timeout, ReplyHandler done) = 0;

  // Sends what is queued, for at most a second, then closes. The first reason given counts.
  virtual void close(Status why) = 0;

  // "worker=w0 address=10.0.0.11:7000"; begins every message about this link.
  virtual const std::string& peer() const = 0;
};

inline constexpr size_t kMaxPendingRequests = 1024;  // per link; more are refused with resource_exhausted

// An error reply to a request; id 0 for errors that answer nothing.
control::Envelope make_error(const Status& status, uint64_t id);
Status read_error(const control::Error& error);

}  // namespace guildhall
