// config_schema.h: what config.proto cannot say about a key: its default, its range and its meaning. One
// table feeds the reader (config_yaml.cc), the printer and docs/configuration.md; tests hold it equal to the
// schema and the page.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace google::protobuf {
class FieldDescriptor;
}

namespace guildhall {

inline constexpr int64_t kAnyInt = std::numeric_limits<int64_t>::max();

struct KeyRule {
  std::string_view key;  // "router.http.listen"; a list's items have no index: "experts.workers.name"
  std::string_view default_value;  // as YAML would write it; empty: none, and `meaning` says what happens
  std::string_view meaning;
  std::string_view allowed = {};  // "auto | cpu": the only values; empty: any
  int64_t min = 1,
          max = kAnyInt;  // of numbers, in the field's own unit (bytes, microseconds, millionths, count)
};

std::span<const KeyRule> key_rules();

// The rule of a dotted path without indices; nullptr: not a key (or a section).
const KeyRule* find_key_rule(std::string_view key);

// list: of sections; texts: of single values.
enum class KeyKind { section, list, text, texts, number, fraction, size, time };

// A field as YAML sees it: its key is the field's name without the unit suffix.
std::string_view yaml_key(const google::protobuf::FieldDescriptor& field);
KeyKind key_kind(const google::protobuf::FieldDescriptor& field);

// A value as YAML writes it, exactly: "8MiB", "250ms", "0.05", "64".
std::string written(int64_t value, KeyKind kind);

// The reference tables of docs/configuration.md, one per section.
std::string config_reference_markdown();

}  // namespace guildhall
