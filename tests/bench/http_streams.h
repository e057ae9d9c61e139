// http_streams.h: what the benchmarks of HTTP share: a server's status that is always ready, and clients that
// are as cheap as can be.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "base/check.h"
#include "router/http/server.h"

namespace guildhall {

class Ready final : public StatusSource {
 public:
  ServingStatus serving_status() const override { return {.state = ServingState::ready}; }
};

// A connection to this host's port.
inline int connect_to(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  GH_CHECK(fd >= 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  GH_CHECK(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

inline void send_request(int fd, std::string_view path, std::string_view body) {
  const std::string request =
      fmt::format("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{}", path, body.size(), body);
  GH_CHECK(write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size()));
}

}  // namespace guildhall
