#include "router/http/json_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serializer.hpp>
#include <boost/json/stream_parser.hpp>
#include <cmath>

namespace guildhall {
namespace {

namespace json = boost::json;

ApiError parse_error(std::string_view body, size_t offset, const boost::system::error_code& error) {
  std::string_view before = body.substr(0, offset);
  size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
  size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  std::string hint;
  if (error == json::error::too_deep)
    hint = fmt::format("; nest at most {} levels", kMaxJsonDepth);
  else if (error == json::error::incomplete)
    hint = "; the body ends too early";
  return {400,
          fmt::format("the body is not valid JSON: {} at byte {} (line {}, column {}){}", error.message(),
                      offset, line, offset - line_start + 1, hint),
          "", "invalid_json"};
}

}  // namespace

ApiResult<json::object> parse_json_body(std::string_view body) {
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  json::stream_parser parser({}, options);
  boost::system::error_code error;
  size_t consumed = parser.write_some(body.data(), body.size(), error);
  if (!error && consumed < body.size()) error = json::error::extra_data;
  if (!error) parser.finish(error);
  if (error) return parse_error(body, consumed, error);
  json::value value = parser.release();
  if (!value.is_object())
    return ApiError{400, "the body must be a JSON object, like {\"prompt\": \"Hello\"}", "", "invalid_json"};
  return std::move(value.get_object());
}

const json::value* find_field(const json::object& body, std::string_view name) {
  const json::value* value = body.if_contains(name);
  return value && !value->is_null() ? value : nullptr;
}

std::string shown(const json::value& value) {
  constexpr size_t kMostChars = 40;
  char text[kMostChars + 1];  // one more, so that printable() sees that it was cut
  json::serializer serializer;
  serializer.reset(&value);
  return printable({text, serializer.read(text, sizeof text).size()}, kMostChars);
}

std::optional<int64_t> whole_number(const json::value& value) {
  if (const int64_t* number = value.if_int64()) return *number;
  if (const double* number = value.if_double()) {
    constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it doubles skip integers
    if (std::trunc(*number) == *number && std::abs(*number) <= kExact) return static_cast<int64_t>(*number);
  }
  return std::nullopt;
}

ApiResult<std::optional<int64_t>> read_int(const json::object& body, std::string_view name, IntRange range) {
  const json::value* value = find_field(body, name);
  if (!value) return std::optional<int64_t>();
  std::optional<int64_t> number = whole_number(*value);
  if (!number || *number < range.min || *number > range.max)
    return bad_field(name, fmt::format("must be a whole number from {} to {}, not {}", range.min, range.max,
                                       shown(*value)));
  return number;
}

ApiResult<std::optional<double>> read_number(const json::object& body, std::string_view name,
                                             NumberRange range) {
  const json::value* value = find_field(body, name);
  if (!value) return std::optional<double>();
  boost::system::error_code not_a_number;
  double number = value->to_number<double>(not_a_number);
  bool above = range.min_excluded ? number > range.min : number >= range.min;
  if (!value->is_number() || not_a_number || !above || !(number <= range.max))
    return bad_field(name, fmt::format("must be a number from {}{} to {}, not {}", range.min,
                                       range.min_excluded ? " (not itself)" : "", range.max, shown(*value)));
  return std::optional<double>(number);
}

ApiResult<bool> read_bool(const json::object& body, std::string_view name, bool absent) {
  const json::value* value = find_field(body, name);
  if (!value) return ApiResult<bool>(boost::system::in_place_value, absent);
  if (!value->is_bool()) return bad_field(name, fmt::format("must be true or false, not {}", shown(*value)));
  return ApiResult<bool>(boost::system::in_place_value, value->get_bool());
}

ApiResult<std::optional<std::string_view>> read_string(const json::object& body, std::string_view name) {
  const json::value* value = find_field(body, name);
  if (!value) return std::optional<std::string_view>();
  if (!value->is_string()) return bad_field(name, fmt::format("must be a string, not {}", shown(*value)));
  return std::optional<std::string_view>(value->get_string());
}

ApiResult<std::vector<int32_t>> read_token_ids(const json::value& value, std::string_view name,
                                               int32_t vocab_size) {
  const json::array* array = value.if_array();
  if (!array) return bad_field(name, "must be an array of token ids");
  std::vector<int32_t> ids;
  ids.reserve(array->size());
  for (const json::value& item : *array) {
    std::optional<int64_t> id = whole_number(item);
    if (!id)
      return bad_field(name,
                       fmt::format("must hold token ids (whole numbers); item {} is not one", ids.size()));
    if (*id < 0 || *id >= vocab_size)
      return bad_field(name, fmt::format("item {} is {}, outside the vocabulary; token ids go from 0 to {}",
                                         ids.size(), *id, vocab_size - 1));
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace guildhall
