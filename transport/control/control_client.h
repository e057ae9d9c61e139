// control_client.h: dials a control server until it answers or the time is over.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "transport/control/control_link.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

namespace control {
class StatusReply;
}

struct DialOptions {
  std::string name;                                             // of the worker, for messages
  std::string address;                                          // "host:port"
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);  // over all attempts
  // Between attempts, doubling. An attempt that is refused, breaks off or times out is retried; an Error
  // reply is not, unless its code is unavailable or resource_exhausted.
  std::chrono::nanoseconds first_backoff = std::chrono::milliseconds(50);
  std::chrono::nanoseconds max_backoff = std::chrono::seconds(1);
  bool retry = true;  // false: one attempt
  LinkOptions link;
};

// The link, open, and the peer's reply to the first message; or why not, naming worker and address.
struct DialedLink {
  LinkPtr link;
  std::shared_ptr<const control::Envelope> reply;
};
using DialHandler = std::function<void(const Result<DialedLink>&)>;

// One dial at a time; after a link is lost, dial again to reconnect. Thread: as ControlServer.
class ControlClient {
 public:
  explicit ControlClient(boost::asio::io_context& io);
  ~ControlClient();  // abandons the dial without calling `done`, and closes the link it made

  // Sends `first` (a Hello or a StatusRequest) on each attempt's connection and waits for its reply. `done`
  // is called once, on the io thread, before any handler. Must not be called while a dial is under way.
  void dial(DialOptions options, const control::Envelope& first, LinkHandlers handlers, DialHandler done);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// For operators: asks a worker or router at `address` how it is. Blocks the calling thread; one attempt.
Result<control::StatusReply> query_status(const std::string& address, std::chrono::nanoseconds timeout);

}  // namespace guildhall
