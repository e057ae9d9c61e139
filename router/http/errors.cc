#include "router/http/errors.h"

#include <fmt/format.h>

#include <boost/json.hpp>

namespace guildhall {
namespace {

namespace json = boost::json;

int http_status_of(Code code) {
  switch (code) {
    case Code::invalid_argument:
    case Code::unsupported:
      return 400;
    case Code::not_found:
      return 404;
    case Code::resource_exhausted:
      return 429;
    case Code::unavailable:
    case Code::peer_lost:
    case Code::cancelled:
      return 503;
    case Code::deadline_exceeded:
      return 504;
    case Code::data_loss:
    case Code::internal:
      return 500;
  }
  return 500;
}

std::string_view type_of(int http_status) {
  if (http_status == 429) return "rate_limit_error";
  if (http_status == 401) return "authentication_error";
  if (http_status == 403) return "permission_error";
  return http_status >= 500 ? "server_error" : "invalid_request_error";
}

json::value string_or_null(const std::string& text) {
  if (text.empty()) return nullptr;
  return json::value(text);
}

}  // namespace

ApiError bad_field(std::string_view name, std::string_view message) {
  return {400, fmt::format("{} {}", name, message), std::string(name), "invalid_value"};
}

ApiError unsupported_field(std::string_view name, std::string_view message) {
  return {400, fmt::format("{} is not supported: {}", name, message), std::string(name),
          "unsupported_parameter"};
}

ApiError to_api_error(const Status& status) {
  return {http_status_of(status.code), status.message, "", std::string(to_string(status.code))};
}

std::string error_body(const ApiError& error) {
  json::object inner;
  inner["message"] = error.message;
  inner["type"] = type_of(error.http_status);
  inner["param"] = string_or_null(error.param);
  inner["code"] = string_or_null(error.code);
  json::object body;
  body["error"] = std::move(inner);
  return json::serialize(body);
}

std::string printable(std::string_view text, size_t max_chars) {
  std::string out(text.substr(0, max_chars));
  for (char& c : out)
    if (c < 0x20 || c > 0x7e) c = '?';
  if (text.size() > max_chars) out += "...";
  return out;
}

}  // namespace guildhall
