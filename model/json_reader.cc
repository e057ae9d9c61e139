#include "model/json_reader.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <fstream>

namespace guildhall {
namespace json = boost::json;
namespace {

constexpr size_t kMaxDepth = 32;

// A value as it is shown in an error: short, whatever was in the file.
std::string shown(const json::value& value) {
  std::string text = json::serialize(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Integers that fit int64; anything else is not one.
std::optional<int64_t> as_integer(const json::value& value) {
  if (const int64_t* number = value.if_int64()) return *number;
  if (const uint64_t* number = value.if_uint64()) {
    if (*number <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(*number);
  }
  return std::nullopt;
}

std::optional<double> as_real(const json::value& value) {
  if (const int64_t* number = value.if_int64()) return static_cast<double>(*number);
  if (const uint64_t* number = value.if_uint64()) return static_cast<double>(*number);
  if (const double* number = value.if_double(); number != nullptr && std::isfinite(*number)) return *number;
  return std::nullopt;
}

}  // namespace

Result<json::value> parse_json(std::string_view text, std::string_view file) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::system::error_code error;
  json::value value = json::parse(text, error, {}, options);
  if (error)
    return Status{Code::invalid_argument, fmt::format("{}: not valid JSON: {}", file, error.message())};
  return value;
}

Result<json::object> parse_json_object(std::string_view text, std::string_view file) {
  GH_ASSIGN(json::value value, parse_json(text, file));
  if (!value.is_object())
    return Status{Code::invalid_argument, fmt::format("{}: the top level must be a JSON object", file)};
  return std::move(value.get_object());
}

Result<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return Status{Code::not_found, fmt::format("{}: no such file", path.string())};
  if (!std::filesystem::is_regular_file(status))
    return Status{Code::invalid_argument, fmt::format("{}: not a regular file", path.string())};
  std::ifstream in(path, std::ios::binary);
  if (!in) return Status{Code::not_found, fmt::format("{}: cannot be opened for reading", path.string())};
  std::string text;
  std::string chunk(1 << 16, '\0');
  while (in.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), in.gcount() > 0) {
    text.append(chunk.data(), static_cast<size_t>(in.gcount()));
    if (static_cast<int64_t>(text.size()) > max_bytes)
      return Status{
          Code::invalid_argument,
          fmt::format("{}: larger than {} bytes, the most such a file may have", path.string(), max_bytes)};
  }
  if (in.bad()) return Status{Code::data_loss, fmt::format("{}: reading failed", path.string())};
  return text;
}

const json::value* JsonObject::find(std::string_view key) const {
  const json::value* value = object_->if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Status JsonObject::error(Code code, std::string_view key, std::string_view problem) const {
  return Status{code, fmt::format("{}{}: {}", where_, key, problem)};
}

Status JsonObject::missing(std::string_view key) const {
  return error(Code::invalid_argument, key, "is missing");
}

std::string_view JsonObject::any_of(std::initializer_list<std::string_view> names) const {
  for (const std::string_view name : names) {
    if (has(name)) return name;
  }
  return *names.begin();
}

Result<int64_t> JsonObject::integer(std::string_view key, IntRange range) const {
  const json::value* value = find(key);
  if (value == nullptr) return missing(key);
  const std::optional<int64_t> number = as_integer(*value);
  if (!number || *number < range.min || *number > range.max)
    return error(Code::invalid_argument, key,
                 fmt::format("{} is not an integer from {} to {}", shown(*value), range.min, range.max));
  return *number;
}

Result<int64_t> JsonObject::integer_or(std::string_view key, int64_t fallback, IntRange range) const {
  if (!has(key)) return fallback;
  return integer(key, range);
}

Result<double> JsonObject::real(std::string_view key, RealRange range) const {
  const json::value* value = find(key);
  if (value == nullptr) return missing(key);
  const std::optional<double> number = as_real(*value);
  if (!number || *number < range.min || *number > range.max)
    return error(Code::invalid_argument, key,
                 fmt::format("{} is not a number from {} to {}", shown(*value), range.min, range.max));
  return *number;
}

Result<double> JsonObject::real_or(std::string_view key, double fallback, RealRange range) const {
  if (!has(key)) return fallback;
  return real(key, range);
}

Result<bool> JsonObject::boolean_or(std::string_view key, bool fallback) const {
  const json::value* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool())
    return error(Code::invalid_argument, key, fmt::format("{} is not true or false", shown(*value)));
  return value->get_bool();
}

Result<std::string> JsonObject::text(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return missing(key);
  if (!value->is_string())
    return error(Code::invalid_argument, key, fmt::format("{} is not a string", shown(*value)));
  return std::string(value->get_string());
}

Result<std::string> JsonObject::text_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  return text(key);
}

Result<std::vector<int64_t>> JsonObject::integers(std::string_view key, IntRange range) const {
  std::vector<int64_t> numbers;
  const json::value* value = find(key);
  if (value == nullptr) return numbers;
  const auto take = [&](const json::value& item) {
    const std::optional<int64_t> number = as_integer(item);
    if (!number || *number < range.min || *number > range.max) return false;
    numbers.push_back(*number);
    return true;
  };
  bool good = true;
  if (value->is_array()) {
    for (const json::value& item : value->get_array()) good = good && take(item);
  } else {
    good = take(*value);
  }
  if (!good)
    return error(Code::invalid_argument, key,
                 fmt::format("{} is not an integer, or a list of integers, from {} to {}", shown(*value),
                             range.min, range.max));
  return numbers;
}

Result<std::optional<JsonObject>> JsonObject::object(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::optional<JsonObject>();
  if (!value->is_object())
    return error(Code::invalid_argument, key, fmt::format("{} is not an object", shown(*value)));
  return std::optional<JsonObject>(JsonObject(value->get_object(), fmt::format("{}{}.", where_, key)));
}

}  // namespace guildhall
