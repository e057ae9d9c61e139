// message.h: one HTTP request as read, one answer as bytes. What handlers see: no sockets, no parser.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/http/api_keys.h"
#include "router/http/cors.h"
#include "router/http/errors.h"

namespace guildhall {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query
  std::string query;   // behind the '?', as it came
  std::string body;
  std::string request_id;              // the caller's x-request-id, or ours
  std::string authorization;           // as it came, for a peer; never for a log
  bool from_peer = false;              // a router forwarded it
  Tenant tenant;                       // whose key it came with; without a name where none are asked for
  std::string cors_lines;              // header lines of every answer to it (cors.h)
  std::optional<Preflight> preflight;  // it is a browser's question
  bool http_1_0 = false;
  bool keep_alive = true;  // what the answer will say, too
  bool is_head() const { return method == "HEAD"; }
};

struct HttpReply {
  int status = 200;
  std::string body;
  std::string_view content_type = "application/json";
  std::vector<std::pair<std::string_view, std::string>> headers;
};

// What logs of HTTP servers say of a client that did not wait for its answer.
inline constexpr int kClientLeft = 499;

// With x-should-retry, which OpenAI's clients go by, and where trying again makes sense (429, 503) when to.
HttpReply error_reply(const ApiError& error);

// Status line, headers and body; to HEAD, without the body.
std::string to_bytes(const HttpReply& reply, const HttpRequest& request);

// The head of a stream of server-sent events, and one piece of it: chunked, or plain bytes to HTTP/1.0.
std::string stream_head(const HttpRequest& request);
std::string stream_piece(const HttpRequest& request, std::string_view bytes);
std::string stream_end(const HttpRequest& request);

// Whether a caller's id is fit to be echoed: 1..128 printable characters.
bool is_request_id(std::string_view given);
// A caller's x-request-id when it is fit, else a new one.
std::string request_id_from(std::string_view given);

}  // namespace guildhall
