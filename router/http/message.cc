#include "router/http/message.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "router/http/completion_json.h"

namespace guildhall {
namespace {

std::string_view reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Internal Server Error";
  }
}

void add_common(std::string& out, const HttpRequest& request) {
  fmt::format_to(std::back_inserter(out), "x-request-id: {}\r\nconnection: {}\r\n{}", request.request_id,
                 request.keep_alive ? "keep-alive" : "close", request.cors_lines);
}

}  // namespace

HttpReply error_reply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.http_status;
  reply.body = error_body(error);
  if (error.http_status == 401) reply.headers.emplace_back("www-authenticate", "Bearer");
  if (error.http_status == 429 || error.http_status == 503) {
    reply.headers.emplace_back("retry-after", "1");
    reply.headers.emplace_back("retry-after-ms", "1000");
    reply.headers.emplace_back("x-should-retry", "true");
  }
  // Clients would try these again by themselves: what met a defect, or the limit that it brought along.
  if (error.http_status == 500 || (error.http_status == 408 && error.param == "timeout"))
    reply.headers.emplace_back("x-should-retry", "false");
  return reply;
}

std::string to_bytes(const HttpReply& reply, const HttpRequest& request) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", reply.status, reason_of(reply.status));
  if (reply.status != 204)  // which has no content, and may not say that it is empty
    fmt::format_to(std::back_inserter(out), "content-type: {}\r\ncontent-length: {}\r\n", reply.content_type,
                   reply.body.size());
  for (const auto& [name, value] : reply.headers)
    fmt::format_to(std::back_inserter(out), "{}: {}\r\n", name, value);
  add_common(out, request);
  out += "\r\n";
  if (!request.is_head()) out += reply.body;
  return out;
}

std::string stream_head(const HttpRequest& request) {
  std::string out =
      "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
      "x-accel-buffering: no\r\n";  // a proxy that buffers would hold tokens back
  if (!request.http_1_0) out += "transfer-encoding: chunked\r\n";
  add_common(out, request);
  out += "\r\n";
  return out;
}

std::string stream_piece(const HttpRequest& request, std::string_view bytes) {
  if (request.http_1_0) return std::string(bytes);
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

std::string stream_end(const HttpRequest& request) { return request.http_1_0 ? "" : "0\r\n\r\n"; }

bool is_request_id(std::string_view given) {
  return !given.empty() && given.size() <= 128 &&
         std::ranges::all_of(given, [](char c) { return c > 0x20 && c < 0x7f; });
}

std::string request_id_from(std::string_view given) {
  return is_request_id(given) ? std::string(given) : "req-" + random_hex(24);
}

}  // namespace guildhall
