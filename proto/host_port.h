// host_port.h: "host:port" addresses as configuration and command lines write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

struct HostPort {
  std::string host;   // a name or an address, without the brackets of "[::1]:7000"
  uint16_t port = 0;  // 0: any free one, for listeners only
};

// The error says what is wrong with the text and shows a right one.
Result<HostPort> parse_host_port(std::string_view text);

// "10.0.0.11:7000", "[::1]:7000"
std::string to_string(const HostPort& address);

}  // namespace guildhall
