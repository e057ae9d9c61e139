// control_server.h: accepts control links. A connection that does not greet properly is dropped; the others
// go on.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "transport/control/control_link.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

struct ServerOptions {
  std::string name;       // "worker=w0": who we are, in logs
  size_t max_links = 64;  // routers and operators at once; more are told resource_exhausted and dropped
  LinkOptions link;
};

// The first message of a link is a Hello of our major version, a StatusRequest or a Drain; it goes to
// on_message like every other. A Hello of another major version is answered with an Error and the link is
// closed. on_closed is called for links whose first message was delivered.
//
// Thread: created before the io_context runs or on its thread; destroyed on its thread or after it has
// stopped.
class ControlServer {
 public:
  // `address` is "host:port"; port 0 takes a free one. The error names the address and what holds it back.
  static Result<std::unique_ptr<ControlServer>> listen(boost::asio::io_context& io, std::string_view address,
                                                       ServerOptions options, LinkHandlers handlers);
  ~ControlServer();  // closes its links, without calling handlers

  std::string local_address() const;  // "127.0.0.1:41235"
  size_t num_links() const;           // greeted or not; on the io thread

 private:
  struct Impl;
  explicit ControlServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace guildhall
