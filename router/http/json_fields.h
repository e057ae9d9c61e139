// json_fields.h: request bodies as JSON, read field by field with errors that name the field and what it may
// be. A null counts as absent, as in OpenAI's API.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/http/errors.h"

namespace guildhall {

// Nesting beyond this is refused: no request needs it, and each level costs parser stack and memory.
inline constexpr size_t kMaxJsonDepth = 64;

// The body must be one JSON object in valid UTF-8; errors give the place.
ApiResult<boost::json::object> parse_json_body(std::string_view body);

const boost::json::value* find_field(const boost::json::object& body, std::string_view name);

struct IntRange {
  int64_t min, max;
};
ApiResult<std::optional<int64_t>> read_int(const boost::json::object& body, std::string_view name,
                                           IntRange range);

struct NumberRange {
  double min, max;
  bool min_excluded = false;
};
ApiResult<std::optional<double>> read_number(const boost::json::object& body, std::string_view name,
                                             NumberRange range);
ApiResult<bool> read_bool(const boost::json::object& body, std::string_view name, bool absent);
ApiResult<std::optional<std::string_view>> read_string(const boost::json::object& body,
                                                       std::string_view name);

// A value as errors show it: its JSON, cut short.
std::string shown(const boost::json::value& value);

// A whole number, however written (7, 7.0); nothing when it is not one or does not fit.
std::optional<int64_t> whole_number(const boost::json::value& value);

// An array of token ids in [0, vocab_size).
ApiResult<std::vector<int32_t>> read_token_ids(const boost::json::value& value, std::string_view name,
                                               int32_t vocab_size);

}  // namespace guildhall
