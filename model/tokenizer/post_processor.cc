#include "model/tokenizer/post_processor.h"

#include <fmt/format.h>

#include "model/tokenizer/bpe.h"

namespace guildhall {
namespace json = boost::json;
namespace {

constexpr std::string_view kSupported = "null, ByteLevel, TemplateProcessing and Sequences of them";

// The ids that the template's special_tokens give for `name`.
Result<std::vector<int64_t>> ids_of(const Component& component, std::string_view name) {
  GH_ASSIGN(const std::optional<JsonObject> tokens, component.fields.object("special_tokens"));
  if (tokens && tokens->has(name)) {
    GH_ASSIGN(const std::optional<JsonObject> token, tokens->object(name));
    return token->integers("ids", {0, kMaxVocab - 1});
  }
  return component.fields.error(Code::invalid_argument, "special_tokens",
                                fmt::format("'{}', which the template uses, is not listed", name));
}

Result<void> apply_template(const Component& component, PostProcessor& out) {
  const json::value* list = component.fields.raw().if_contains("single");
  const Status malformed = component.fields.error(
      Code::invalid_argument, "single", "must be a list of SpecialToken and, once, Sequence with id A");
  if (list == nullptr || !list->is_array()) return malformed;
  PostProcessor added;
  bool seen_sequence = false;
  for (const json::value& item : list->get_array()) {
    if (!item.is_object()) return malformed;
    const JsonObject part(item.get_object(), component.fields.error(Code::internal, "single", "").message);
    if (part.has("Sequence")) {
      GH_ASSIGN(const std::optional<JsonObject> sequence, part.object("Sequence"));
      GH_ASSIGN(const std::string id, sequence->text("id"));
      if (id != "A" || seen_sequence) return malformed;
      seen_sequence = true;
      continue;
    }
    GH_ASSIGN(const std::optional<JsonObject> special, part.object("SpecialToken"));
    if (!special) return malformed;
    GH_ASSIGN(const std::string name, special->text("id"));
    GH_ASSIGN(const std::vector<int64_t> ids, ids_of(component, name));
    std::vector<int32_t>& side = seen_sequence ? added.suffix : added.prefix;
    for (const int64_t id : ids) side.push_back(static_cast<int32_t>(id));
  }
  if (!seen_sequence) return malformed;
  // A later template stands around what the earlier ones made.
  out.prefix.insert(out.prefix.begin(), added.prefix.begin(), added.prefix.end());
  out.suffix.insert(out.suffix.end(), added.suffix.begin(), added.suffix.end());
  return {};
}

}  // namespace

Result<PostProcessor> PostProcessor::read(const JsonObject& root) {
  PostProcessor processor;
  GH_ASSIGN(const std::vector<Component> components, read_components(root, "post_processor", "processors"));
  for (const Component& component : components) {
    if (component.type == "TemplateProcessing")
      GH_TRY(apply_template(component, processor));
    else if (component.type != "ByteLevel")  // which only trims offsets into the text
      return component.unsupported(kSupported);
  }
  return processor;
}

}  // namespace guildhall
