// errors.h: what went wrong with one HTTP call, in the shape OpenAI's clients read:
// {"error":{"message","type","param","code"}}.
#pragma once

#include <boost/system/result.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

struct ApiError {
  int http_status = 400;
  std::string message;  // UTF-8; says what would work
  std::string param;    // the field at fault; empty: null
  std::string code;     // "context_length_exceeded", ...; empty: null
};

template <class T>
using ApiResult = boost::system::result<T, ApiError>;

// A field of the body that is wrong: 400 "NAME MESSAGE".
ApiError bad_field(std::string_view name, std::string_view message);
// A field we know and do not do: 400 with code "unsupported_parameter".
ApiError unsupported_field(std::string_view name, std::string_view message);

ApiError to_api_error(const Status& status);

// The JSON body; used for plain answers and for `data:` events in the middle of a stream.
std::string error_body(const ApiError& error);

// Text from outside made fit for messages and logs: at most `max_chars`, printable ASCII, the rest as '?'.
std::string printable(std::string_view text, size_t max_chars);

}  // namespace guildhall
