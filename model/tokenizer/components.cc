#include "model/tokenizer/components.h"

#include <fmt/format.h>

namespace guildhall {
namespace json = boost::json;
namespace {

Result<void> append_components(const JsonObject& object, std::string_view list_key,
                               std::vector<Component>& out) {
  GH_ASSIGN(std::string type, object.text("type"));
  if (type != "Sequence") {
    out.push_back({std::move(type), object});
    return {};
  }
  const json::value* list = object.raw().if_contains(list_key);
  if (list == nullptr || !list->is_array())
    return object.error(Code::invalid_argument, list_key, "must be the list of a Sequence's components");
  const std::string where = object.error(Code::internal, list_key, "").message;  // "<file>: <path>: "
  for (size_t i = 0; i < list->get_array().size(); ++i) {
    const json::value& item = list->get_array()[i];
    const std::string name = fmt::format("{}[{}]", where.substr(0, where.size() - 2), i);
    if (!item.is_object()) return Status{Code::invalid_argument, fmt::format("{}: is not an object", name)};
    GH_TRY(append_components(JsonObject(item.get_object(), name + "."), list_key, out));
  }
  return {};
}

}  // namespace

Status Component::unsupported(std::string_view supported) const {
  return fields.error(Code::unsupported, "type",
                      fmt::format("'{}' is not supported; supported: {}", type, supported));
}

Result<std::vector<Component>> read_components(const JsonObject& root, std::string_view key,
                                               std::string_view list_key) {
  std::vector<Component> components;
  GH_ASSIGN(const std::optional<JsonObject> object, root.object(key));
  if (object) GH_TRY(append_components(*object, list_key, components));
  return components;
}

Result<Regex> read_pattern(const Component& component) {
  GH_ASSIGN(const std::optional<JsonObject> pattern, component.fields.object("pattern"));
  if (!pattern || (!pattern->has("String") && !pattern->has("Regex")))
    return component.fields.error(Code::invalid_argument, "pattern",
                                  R"(must be {"String": ...} or {"Regex": ...})");
  const bool literal = pattern->has("String");
  GH_ASSIGN(const std::string text, pattern->text(literal ? "String" : "Regex"));
  Result<Regex> regex = literal ? Regex::literal(text) : Regex::compile(text);
  if (regex.has_error()) return component.fields.error(regex.error().code, "pattern", regex.error().message);
  return regex;
}

}  // namespace guildhall
