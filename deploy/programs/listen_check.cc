#include "deploy/programs/listen_check.h"

#include <fmt/format.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "proto/host_port.h"

namespace guildhall {
namespace {

// 0, or the errno of binding.
int try_bind(const addrinfo& address) {
  const int fd = socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol);
  if (fd < 0) return errno;
  const int yes = 1;  // as the processes do: a port whose connections linger can be had again
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const bool bound = bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, 1) == 0;
  const int error = bound ? 0 : errno;
  close(fd);
  return error;
}

std::string_view remedy(int error) {
  if (error == EADDRINUSE) return "; stop the process that has it, or choose another port";
  if (error == EACCES) return "; choose a port from 1024 up";
  return "";
}

}  // namespace

Result<void> check_can_listen(std::string_view key, const std::string& address) {
  GH_ASSIGN(const HostPort at, parse_host_port(address));
  if (at.port == 0)
    return Status{
        Code::invalid_argument,
        fmt::format("{}: {} has port 0; `guildhall up` must know the port, so choose one", key, address)};
  const addrinfo hints{.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  if (const int error = try_bind(*found); error != 0)
    return Status{Code::unavailable,
                  fmt::format("{}: cannot listen on {}: {}{}", key, address,
                              error == EADDRINUSE ? "the port is in use" : strerror(error), remedy(error))};
  return {};
}

}  // namespace guildhall
