#include "proto/config_diff.h"

#include <fmt/format.h>
#include <google/protobuf/message.h>

#include "proto/config.pb.h"
#include "proto/config_schema.h"

namespace guildhall {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string value_of(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  if (key_kind(field) == KeyKind::texts) {
    std::vector<std::string> texts;
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i)
      texts.push_back(reflection.GetRepeatedString(message, &field, i));
    return fmt::format("{}", fmt::join(texts, ", "));
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) return reflection.GetString(message, &field);
  const int64_t number = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32
                             ? reflection.GetInt32(message, &field)
                             : reflection.GetInt64(message, &field);
  return written(number, key_kind(field));
}

void diff(const Message& from, const Message& to, const std::string& path,
          std::vector<ConfigChange>& changes) {
  const auto& schema = *from.GetDescriptor();
  const auto& reflection = *from.GetReflection();
  for (int i = 0; i < schema.field_count(); ++i) {
    const FieldDescriptor& field = *schema.field(i);
    const std::string key = path + std::string(yaml_key(field));
    if (key_kind(field) == KeyKind::list) {
      const int before = reflection.FieldSize(from, &field), after = reflection.FieldSize(to, &field);
      if (before != after)
        changes.push_back({key, fmt::format("{} entries", before), fmt::format("{} entries", after)});
      for (int item = 0; before == after && item < after; ++item)
        diff(reflection.GetRepeatedMessage(from, &field, item),
             reflection.GetRepeatedMessage(to, &field, item), fmt::format("{}[{}].", key, item), changes);
    } else if (key_kind(field) == KeyKind::section) {
      diff(reflection.GetMessage(from, &field), reflection.GetMessage(to, &field), key + ".", changes);
    } else if (std::string before = value_of(from, field), after = value_of(to, field); before != after) {
      changes.push_back({key, std::move(before), std::move(after)});
    }
  }
}

}  // namespace

std::vector<ConfigChange> diff_config(const config::Config& from, const config::Config& to) {
  std::vector<ConfigChange> changes;
  diff(from, to, "", changes);
  return changes;
}

std::string to_string(const ConfigChange& change) {
  const auto shown = [](const std::string& value) { return value.empty() ? "(nothing)" : value; };
  return fmt::format("{}: {} -> {}", change.key, shown(change.from), shown(change.to));
}

}  // namespace guildhall
