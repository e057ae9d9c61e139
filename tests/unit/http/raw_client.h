// raw_client.h: a client that sends exactly the bytes a test wants and reads exactly what comes back.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace guildhall {

struct RawReply {
  int status = 0;                              // 0: the connection ended first
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // whole, unchunked; empty for an open stream
  boost::json::object json() const { return boost::json::parse(body).as_object(); }
  boost::json::object error() const { return json().at("error").as_object(); }
};

// Reads give up after 20 s.
class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool send(std::string_view bytes);  // false: the peer does not take them
  void shutdown_write();
  void reset();  // leaves with RST
  void close();

  RawReply read_reply(bool to_head = false);  // head and whole body
  RawReply read_head();
  // The next server-sent event of a chunked stream: "data: ..." or ": ping", without the blank line; nothing
  // at the end.
  std::optional<std::string> read_event();
  std::string read_to_end();
  bool at_end();  // the server has closed; false if bytes come instead

  RawReply get(std::string_view path);
  RawReply post(std::string_view path, std::string_view body);

 private:
  bool fill();  // more bytes, or false at the end
  std::optional<std::string> read_line();
  std::string read_exactly(size_t size);
  std::optional<std::string> read_chunk();

  int fd_;
  std::string buffer_, events_;
};

std::string post_bytes(std::string_view path, std::string_view body, std::string_view more_headers = "");

}  // namespace guildhall
