#include "proto/config_yaml.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <numeric>

#include "base/check.h"
#include "base/units.h"
#include "proto/config_check.h"
#include "proto/config_schema.h"
#include "proto/yaml_tree.h"

namespace guildhall {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Levenshtein's distance, one row at a time.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substituted});
    }
  }
  return row.back();
}

// Text from the file as messages show it: bounded.
std::string shown(std::string_view text) {
  constexpr size_t kMaxShown = 80;
  return text.size() <= kMaxShown ? fmt::format("'{}'", text)
                                  : fmt::format("'{}...'", text.substr(0, kMaxShown));
}

std::string join_key(std::string_view path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

// What a user who wrote `key` in this section may have meant.
std::string suggestion(const Descriptor& section, std::string_view path, std::string_view key) {
  std::string_view nearest;
  size_t nearest_distance = std::max<size_t>(2, key.size() / 3) + 1;
  std::vector<std::string_view> known;
  for (int i = 0; i < section.field_count(); ++i) {
    const std::string_view name = yaml_key(*section.field(i));
    known.push_back(name);
    if (key == section.field(i)->name()) return fmt::format("write {}, with a unit in the value", name);
    if (key.size() > 64) continue;
    if (const size_t distance = edit_distance(key, name); distance < nearest_distance)
      nearest = name, nearest_distance = distance;
  }
  if (nearest_distance <= 1) return fmt::format("did you mean {}?", nearest);
  for (const KeyRule& rule : key_rules()) {
    const size_t dot = rule.key.rfind('.');
    if (rule.key.substr(dot + 1) == key && rule.key.substr(0, dot) != path)
      return fmt::format("it belongs in {}", rule.key.substr(0, dot));
  }
  if (!nearest.empty()) return fmt::format("did you mean {}?", nearest);
  return fmt::format("known here: {}", fmt::join(known, ", "));
}

// A file of nothing but mistakes costs no more than this many messages; the first kMaxConfigProblems are
// shown.
constexpr size_t kMaxKeptProblems = 256;

class Reader {
 public:
  explicit Reader(std::string filename) : filename_(std::move(filename)) {}

  void read(const YamlNode& root, config::Config& config) {
    if (root.kind == YamlNode::Kind::null) return fill_section({}, config, "", "");
    if (root.kind != YamlNode::Kind::map)
      return problem(root.line, "", "the file must be keys and values, such as 'model: {path: ...}'");
    fill_section(root, config, "", "");
  }

  // A problem between keys.
  void problem_at(const ConfigProblem& found) { problem(lines_.at(found.key), found.key, found.message); }

  bool good() const { return num_problems_ == 0; }

  const KeyLines& lines() const { return lines_; }

  Status status() const {
    std::vector<std::string> lines;
    for (const auto& [line, text] : problems_) {
      if (lines.size() == kMaxConfigProblems) break;
      lines.push_back(text);
    }
    if (num_problems_ > lines.size())
      lines.push_back(fmt::format("{}: and {} more problems", filename_, num_problems_ - lines.size()));
    return Status{Code::invalid_argument, fmt::format("{}", fmt::join(lines, "\n"))};
  }

 private:
  void problem(int line, std::string_view key, std::string_view message) {
    if (++num_problems_ > kMaxKeptProblems) return;
    const std::string prefix = key.empty() ? "" : fmt::format("{}: ", key);
    problems_.emplace(line, fmt::format("{}:{}: {}{}", filename_, line, prefix, message));
  }

  // `path` has indices, for messages; `rule_path` has none, for the table.
  void fill_section(const YamlNode& node, Message& message, const std::string& path,
                    const std::string& rule_path) {
    const Descriptor& schema = *message.GetDescriptor();
    lines_.line_of.emplace(path, node.line);
    std::map<std::string_view, const YamlNode::Entry*> given;
    for (const YamlNode::Entry& entry : node.entries) {
      const auto [first, is_new] = given.emplace(entry.key, &entry);
      if (!is_new)
        problem(entry.line, join_key(path, shown_key(entry.key)),
                fmt::format("given twice; it is also on line {}", first->second->line));
    }
    for (int i = 0; i < schema.field_count(); ++i) {
      const FieldDescriptor& field = *schema.field(i);
      const std::string_view key = yaml_key(field);
      const auto found = given.find(key);
      const YamlNode::Entry* entry = found == given.end() ? nullptr : found->second;
      if (entry != nullptr) {
        lines_.line_of.emplace(join_key(path, key), entry->line);
        given.erase(found);
      }
      fill_field(entry, message, field, join_key(path, key), join_key(rule_path, key));
    }
    for (const YamlNode::Entry& entry : node.entries) {
      const auto unknown = given.find(entry.key);
      if (unknown == given.end() || unknown->second != &entry) continue;
      const bool is_kept = num_problems_ < kMaxKeptProblems;  // else it is only counted
      problem(entry.line, join_key(path, shown_key(entry.key)),
              is_kept ? fmt::format("unknown key ({})", suggestion(schema, rule_path, entry.key)) : "");
    }
  }

  static std::string_view shown_key(std::string_view key) { return key.substr(0, 64); }

  void fill_field(const YamlNode::Entry* entry, Message& message, const FieldDescriptor& field,
                  const std::string& path, const std::string& rule_path) {
    const auto& reflection = *message.GetReflection();
    const KeyKind kind = key_kind(field);
    if (kind == KeyKind::section) {
      YamlNode none{.line = entry != nullptr ? entry->line : lines_.at(path)};
      const bool given = entry != nullptr && entry->value.kind != YamlNode::Kind::null;
      if (given && entry->value.kind != YamlNode::Kind::map)
        return problem(entry->line, path,
                       fmt::format("must be a section of keys, not {}", describe(entry->value)));
      return fill_section(given ? entry->value : none, *reflection.MutableMessage(&message, &field), path,
                          rule_path);
    }
    if (kind == KeyKind::list) {
      if (entry == nullptr || entry->value.kind == YamlNode::Kind::null) return;
      if (entry->value.kind != YamlNode::Kind::sequence)
        return problem(entry->line, path, fmt::format("must be a list, not {}", describe(entry->value)));
      for (size_t i = 0; i < entry->value.items.size(); ++i) {
        const YamlNode& item = entry->value.items[i];
        const std::string item_path = fmt::format("{}[{}]", path, i);
        Message& added = *reflection.AddMessage(&message, &field);
        lines_.line_of.emplace(item_path, item.line);
        if (item.kind != YamlNode::Kind::map)
          problem(item.line, item_path, fmt::format("must be a section of keys, not {}", describe(item)));
        fill_section(item.kind == YamlNode::Kind::map ? item : YamlNode{.line = item.line}, added, item_path,
                     rule_path);
      }
      return;
    }
    if (kind == KeyKind::texts) {
      if (entry != nullptr) fill_texts(*entry, message, field, path);
      return;
    }
    const KeyRule* rule = find_key_rule(rule_path);
    GH_CHECK(rule != nullptr);
    if (entry != nullptr) {
      if (const Result<void> set = set_scalar(entry->value, *rule, message, field); !set)
        problem(entry->value.line, path, set.error().message);
    } else if (!rule->default_value.empty()) {
      const YamlNode value{.kind = YamlNode::Kind::scalar, .scalar = std::string(rule->default_value)};
      GH_CHECK(set_scalar(value, *rule, message, field));
    }
  }

  void fill_texts(const YamlNode::Entry& entry, Message& message, const FieldDescriptor& field,
                  const std::string& path) {
    if (entry.value.kind != YamlNode::Kind::sequence)
      return problem(entry.line, path,
                     fmt::format("must be a list, such as [a, b], not {}", describe(entry.value)));
    for (const YamlNode& item : entry.value.items) {
      if (item.kind != YamlNode::Kind::scalar || item.scalar.empty())
        return problem(item.line, path, "must hold texts that are not empty");
      message.GetReflection()->AddString(&message, &field, item.scalar);
    }
  }

  static std::string_view describe(const YamlNode& node) {
    switch (node.kind) {
      case YamlNode::Kind::null:
        return "nothing";
      case YamlNode::Kind::scalar:
        return "a single value";
      case YamlNode::Kind::sequence:
        return "a list";
      case YamlNode::Kind::map:
        return "a section of keys";
    }
    return "";
  }

  static Result<void> set_scalar(const YamlNode& node, const KeyRule& rule, Message& message,
                                 const FieldDescriptor& field) {
    const auto invalid = [](std::string why) { return Status{Code::invalid_argument, std::move(why)}; };
    if (node.kind == YamlNode::Kind::null) return invalid("has no value; give it one or leave the key out");
    if (node.kind != YamlNode::Kind::scalar)
      return invalid(fmt::format("must be a single value, not {}", describe(node)));
    const auto& reflection = *message.GetReflection();
    const KeyKind kind = key_kind(field);
    if (kind == KeyKind::text) {
      if (node.scalar.empty()) return invalid("is empty; give it a value or leave the key out");
      if (node.scalar.find('\0') != std::string::npos) return invalid("holds a NUL character");
      if (!is_allowed(node.scalar, rule.allowed))
        return invalid(fmt::format("{} is not one of: {}", shown(node.scalar), rule.allowed));
      reflection.SetString(&message, &field, node.scalar);
      return {};
    }
    GH_ASSIGN(const int64_t value, parse_number(node, kind));
    if (value < rule.min || value > rule.max)
      return invalid(fmt::format("{} is out of range; it must be from {} to {}", node.scalar,
                                 written(rule.min, kind), written(rule.max, kind)));
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32)
      reflection.SetInt32(&message, &field, static_cast<int32_t>(value));
    else
      reflection.SetInt64(&message, &field, value);
    return {};
  }

  static bool is_allowed(std::string_view value, std::string_view allowed) {
    if (allowed.empty()) return true;
    constexpr std::string_view kSeparator = " | ";
    for (size_t begin = 0;;) {
      const size_t end = allowed.find(kSeparator, begin);
      if (allowed.substr(begin, end - begin) == value) return true;
      if (end == allowed.npos) return false;
      begin = end + kSeparator.size();
    }
  }

  // In the field's unit: bytes, microseconds, millionths or a count.
  static Result<int64_t> parse_number(const YamlNode& node, KeyKind kind) {
    const std::string& text = node.scalar;
    const auto invalid = [&](std::string_view what) {
      return Status{Code::invalid_argument, fmt::format("{} is not {}", shown(text), what)};
    };
    if (kind == KeyKind::size) {
      const auto bytes = parse_bytes(text);
      if (!bytes) return invalid("a size such as 512MiB or 4GiB");
      return *bytes;
    }
    if (kind == KeyKind::time) {
      const auto time = parse_duration(text);
      if (!time) return invalid("a time such as 250ms or 30s");
      return std::chrono::duration_cast<std::chrono::microseconds>(*time).count();
    }
    if (node.quoted) return invalid("a number: take it out of its quotes");
    if (kind == KeyKind::fraction) {
      double value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size() || !(std::abs(value) < 1e9))
        return invalid("a number such as 0.05");
      return static_cast<int64_t>(std::llround(value * 1e6));
    }
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range || error != std::errc() || end != text.data() + text.size())
      return invalid("a whole number");
    return value;
  }

  std::string filename_;
  KeyLines lines_;
  std::multimap<int, std::string> problems_;  // by line
  size_t num_problems_ = 0;
};

// A relative path starts at the configuration file's folder.
std::string resolved(const std::filesystem::path& filename, const std::filesystem::path& path) {
  if (path.empty() || path.is_absolute()) return path.string();
  std::error_code ignored;  // without a working directory the path stays relative
  const auto joined = (filename.parent_path() / path).lexically_normal();
  const auto absolute = std::filesystem::absolute(joined, ignored);
  return (ignored ? joined : absolute.lexically_normal()).string();
}

}  // namespace

int KeyLines::at(std::string key) const {
  auto line = line_of.find(key);
  while (line == line_of.end() && !key.empty()) {
    const size_t cut = key.find_last_of(".[");
    key.resize(cut == key.npos ? 0 : cut);
    line = line_of.find(key);
  }
  return line == line_of.end() ? 1 : line->second;
}

Result<config::Config> parse_config(std::string_view text, const std::filesystem::path& filename,
                                    KeyLines* lines) {
  GH_ASSIGN(const YamlNode root, parse_yaml(text, filename.string()));
  config::Config config;
  Reader reader(filename.string());
  reader.read(root, config);
  config.mutable_model()->set_path(resolved(filename, config.model().path()));
  config.mutable_trace()->set_file(resolved(filename, config.trace().file()));
  auto& routing_trace = *config.mutable_balance()->mutable_trace();
  routing_trace.set_folder(resolved(filename, routing_trace.folder()));
  auto& http = *config.mutable_router()->mutable_http();
  http.set_api_keys_file(resolved(filename, http.api_keys_file()));
  auto& spill = *config.mutable_router()->mutable_kv_cache()->mutable_spill();
  spill.set_path(resolved(filename, spill.path()));
  derive_defaults(config);
  if (reader.good())
    for (const ConfigProblem& found : check_config(config)) reader.problem_at(found);
  if (!reader.good()) return reader.status();
  if (lines) *lines = reader.lines();
  return config;
}

Result<config::Config> read_config(const std::filesystem::path& path, KeyLines* lines) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found)
    return Status{Code::not_found, fmt::format("{}: no such configuration file", path.string())};
  if (type == std::filesystem::file_type::directory)
    return Status{Code::invalid_argument,
                  fmt::format("{}: is a folder; name the configuration file in it", path.string())};
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxYamlBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.eof() && file.fail())
    return Status{Code::invalid_argument,
                  fmt::format("{}: cannot be read; check its permissions", path.string())};
  text.resize(static_cast<size_t>(file.gcount()));
  return parse_config(text, path, lines);
}

Status config_problem(const std::filesystem::path& file, std::string_view key, std::string_view message) {
  KeyLines lines;
  (void)read_config(file, &lines);
  return {Code::invalid_argument,
          fmt::format("{}:{}: {}: {}", file.string(), lines.at(std::string(key)), key, message)};
}

}  // namespace guildhall
