// config_print.cc: the effective configuration as YAML, for `guildhall config check`.
#include <google/protobuf/message.h>
#include <yaml-cpp/emitter.h>

#include "proto/config.pb.h"
#include "proto/config_schema.h"
#include "proto/config_yaml.h"

namespace guildhall {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Whether the field holds anything: texts and counts that others decide are left out.
bool is_set(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  if (field.is_repeated()) return reflection.FieldSize(message, &field) > 0;
  return reflection.HasField(message, &field);
}

void print(const Message& message, const std::string& rule_path, YAML::Emitter& out) {
  const auto& schema = *message.GetDescriptor();
  const auto& reflection = *message.GetReflection();
  out << YAML::BeginMap;
  for (int i = 0; i < schema.field_count(); ++i) {
    const FieldDescriptor& field = *schema.field(i);
    const std::string key(yaml_key(field));
    const std::string path = rule_path.empty() ? key : rule_path + "." + key;
    const KeyRule* rule = find_key_rule(path);
    // A number whose default is written is shown even when it is 0.
    if (!is_set(message, field) && (rule == nullptr || rule->default_value.empty())) continue;
    out << YAML::Key << key << YAML::Value;
    const auto number = [&] {
      return field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 ? reflection.GetInt32(message, &field)
                                                                : reflection.GetInt64(message, &field);
    };
    switch (key_kind(field)) {
      case KeyKind::section:
        print(reflection.GetMessage(message, &field), path, out);
        break;
      case KeyKind::list:
        out << YAML::BeginSeq;
        for (int item = 0; item < reflection.FieldSize(message, &field); ++item)
          print(reflection.GetRepeatedMessage(message, &field, item), path, out);
        out << YAML::EndSeq;
        break;
      case KeyKind::texts:
        out << YAML::Flow << YAML::BeginSeq;
        for (int item = 0; item < reflection.FieldSize(message, &field); ++item)
          out << reflection.GetRepeatedString(message, &field, item);
        out << YAML::EndSeq;
        break;
      case KeyKind::text:
        out << reflection.GetString(message, &field);
        break;
      case KeyKind::number:
      case KeyKind::fraction:
      case KeyKind::size:
      case KeyKind::time:
        out << written(number(), key_kind(field));
        break;
    }
  }
  out << YAML::EndMap;
}

}  // namespace

std::string describe_config(const config::Config& config) {
  YAML::Emitter out;
  print(config, "", out);
  return std::string(out.c_str()) + "\n";
}

}  // namespace guildhall
