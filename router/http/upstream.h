// upstream.h: one request to a peer router over a connection of its own, HTTP/1.0: the answer is plain bytes
// that end with the connection. Everything runs on the executor it was made with.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "proto/host_port.h"

namespace guildhall {

struct UpstreamHead {
  int status = 0;
  std::string content_type;
  std::optional<size_t> content_length;  // absent: until the connection ends
};

// Of what comes before the blank line. Nothing when that is no head of an answer.
std::optional<UpstreamHead> parse_upstream_head(std::string_view head);

class Upstream : public std::enable_shared_from_this<Upstream> {
 public:
  explicit Upstream(const boost::asio::any_io_executor& executor)
      : resolver_(executor), socket_(executor), deadline_(executor) {}

  // Connects and sends; false when that fails or takes longer than `timeout`.
  boost::asio::awaitable<bool> send(HostPort peer, std::string request, std::chrono::milliseconds timeout);
  // What comes next, at most `size` bytes; 0: the end, or a failure.
  boost::asio::awaitable<size_t> read_some(char* data, size_t size);
  // Sends, and reads an answer of at most about `most_bytes` with its head, all within `timeout`. Empty:
  // there was none.
  boost::asio::awaitable<std::string> ask(HostPort peer, std::string request,
                                          std::chrono::milliseconds timeout, size_t most_bytes);
  void close();  // what is under way fails

 private:
  void close_after(std::chrono::milliseconds timeout);
  boost::asio::awaitable<bool> connect_and_write(HostPort peer, std::string request);

  boost::asio::ip::tcp::resolver resolver_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer deadline_;
};

}  // namespace guildhall
