// connection.h: one client's connection, from accept to close: requests in turn, each read, answered, kept
// alive.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>

#include "router/http/service.h"

namespace guildhall {

// Runs on its socket's strand and keeps itself alive; the server holds it weakly.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void drain() = 0;  // any thread: close after the request under way, at once when idle
  virtual void cut() = 0;    // any thread: close now
};

// `crowded`: the server is over its connection limit; one request is answered, those that need the engine
// with 503. `on_end` is called once, on the strand, when the connection is closed.
std::shared_ptr<Connection> make_connection(boost::asio::ip::tcp::socket socket, const HttpService& service,
                                            bool crowded, std::function<void()> on_end);
void start(const std::shared_ptr<Connection>& connection);

}  // namespace guildhall
