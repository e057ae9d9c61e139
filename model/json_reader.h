// json_reader.h: JSON that someone else wrote, read with types and bounds; every error names the file and the
// key, as in "config.json: rope_scaling.type: ...". A key whose value is null counts as absent.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall {

// Text to a value; `file` names it in errors. Nesting deeper than 32 is refused.
Result<boost::json::value> parse_json(std::string_view text, std::string_view file);

// The same, but the top level must be an object.
Result<boost::json::object> parse_json_object(std::string_view text, std::string_view file);

// A whole file of at most max_bytes. not_found when it is not there.
Result<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes);

struct IntRange {
  int64_t min = 0, max = 0;  // inclusive
};

struct RealRange {
  double min = 0, max = 0;  // inclusive
};

// A view of one object and of the name its keys have in errors. Borrows the object.
class JsonObject {
 public:
  // `where` is what stands before a key: "config.json: " or "config.json: rope_scaling.".
  JsonObject(const boost::json::object& object, std::string where)
      : object_(&object), where_(std::move(where)) {}

  bool has(std::string_view key) const { return find(key) != nullptr; }
  // The first of the names that is present; the first name when none is.
  std::string_view any_of(std::initializer_list<std::string_view> names) const;

  Result<int64_t> integer(std::string_view key, IntRange range) const;
  Result<int64_t> integer_or(std::string_view key, int64_t fallback, IntRange range) const;
  Result<double> real(std::string_view key, RealRange range) const;
  Result<double> real_or(std::string_view key, double fallback, RealRange range) const;
  Result<bool> boolean_or(std::string_view key, bool fallback) const;
  Result<std::string> text(std::string_view key) const;
  Result<std::string> text_or(std::string_view key, std::string_view fallback) const;
  // One integer or a list of them; absent: empty.
  Result<std::vector<int64_t>> integers(std::string_view key, IntRange range) const;
  // A nested object; absent: nullopt.
  Result<std::optional<JsonObject>> object(std::string_view key) const;

  // "<where><key>: <problem>"
  Status error(Code code, std::string_view key, std::string_view problem) const;
  const boost::json::object& raw() const { return *object_; }

 private:
  const boost::json::value* find(std::string_view key) const;  // nullptr: absent or null
  Status missing(std::string_view key) const;

  const boost::json::object* object_;
  std::string where_;
};

}  // namespace guildhall
