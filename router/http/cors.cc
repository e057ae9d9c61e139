#include "router/http/cors.h"

#include <fmt/format.h>

#include <algorithm>

namespace guildhall {
namespace {

// How long a browser may go without asking again: Chromium takes no more than 2 hours.
constexpr int kMaxAgeSeconds = 600;
// Beyond it the names are not repeated; OpenAI's client sends some 300 bytes of them.
constexpr size_t kMaxHeaderNames = 2048;

// Field names of HTTP (RFC 9110 5.6.2), commas and blanks: nothing that could end a line.
bool are_header_names(std::string_view names) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~, ";
  return !names.empty() && names.size() <= kMaxHeaderNames && std::ranges::all_of(names, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kMarks.find(c) != kMarks.npos;
  });
}

}  // namespace

CorsPolicy::CorsPolicy(std::vector<std::string> origins)
    : origins_(std::move(origins)), all_(std::ranges::find(origins_, "*") != origins_.end()) {}

bool CorsPolicy::allows(std::string_view origin) const {
  return !origin.empty() && (all_ || std::ranges::find(origins_, origin) != origins_.end());
}

// Caches must not give one page's answer to another; where all pages get the same, that cannot be.
std::string CorsPolicy::answer_lines(std::string_view origin) const {
  if (origins_.empty()) return {};
  std::string lines = all_ ? "" : "vary: origin\r\n";
  if (all_ || allows(origin))
    lines += fmt::format(
        "access-control-allow-origin: {}\r\n"
        "access-control-expose-headers: x-request-id, retry-after, retry-after-ms, x-should-retry\r\n",
        all_ ? "*" : origin);
  return lines;
}

// The names are repeated: a "*" would not stand for Authorization, and clients send names of their own.
std::vector<std::pair<std::string_view, std::string>> CorsPolicy::preflight_headers(
    const Preflight& preflight, std::string_view methods) const {
  std::vector<std::pair<std::string_view, std::string>> headers{
      {"access-control-allow-methods", std::string(methods)},
      {"access-control-max-age", std::to_string(kMaxAgeSeconds)},
      {"vary", "access-control-request-headers"}};
  if (are_header_names(preflight.headers))
    headers.emplace_back("access-control-allow-headers", preflight.headers);
  return headers;
}

}  // namespace guildhall
