#include "proto/host_port.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace guildhall {
namespace {

constexpr size_t kMaxHostBytes = 253;  // of a domain name

bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool valid_name(std::string_view host) {
  return std::all_of(host.begin(), host.end(),
                     [](char c) { return is_alnum(c) || c == '.' || c == '-' || c == '_'; });
}

bool valid_ipv6(std::string_view host) {
  return host.find(':') != host.npos && std::all_of(host.begin(), host.end(), [](char c) {
           return is_alnum(c) || c == ':' || c == '.' || c == '%';
         });
}

}  // namespace

Result<HostPort> parse_host_port(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return Status{
        Code::invalid_argument,
        fmt::format("'{}' is not an address: {}; write HOST:PORT, such as 10.0.0.11:7000", text, why)};
  };
  const size_t colon = text.rfind(':');
  if (colon == text.npos) return refuse("it has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.empty()) return refuse("it has no host");
  if (host.size() > kMaxHostBytes) return refuse("the host is too long");
  if (host.front() == '[') {
    if (host.back() != ']' || !valid_ipv6(host.substr(1, host.size() - 2)))
      return refuse("the part in brackets is not an IPv6 address");
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != host.npos) {
    return refuse("an IPv6 address goes in brackets");
  } else if (!valid_name(host)) {
    return refuse("the host has a character that names and addresses do not have");
  }
  uint32_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() || port > 65535)
    return refuse("the port is not a number in [0, 65535]");
  return HostPort{std::string(host), static_cast<uint16_t>(port)};
}

std::string to_string(const HostPort& address) {
  return address.host.find(':') == std::string::npos ? fmt::format("{}:{}", address.host, address.port)
                                                     : fmt::format("[{}]:{}", address.host, address.port);
}

}  // namespace guildhall
