#include "model/chat_template/chat_template.h"

#include <fmt/format.h>

#include "model/chat_template/python_text.h"
#include "model/json_reader.h"

namespace guildhall {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr std::string_view kJinjaFile = "chat_template.jinja";
constexpr std::string_view kConfigFile = "tokenizer_config.json";

// Stands after the last message while the prompt that continues it is rendered; the prompt ends before it.
// The space tells whether the template trims the message.
constexpr std::string_view kEndMark = "<|guildhall ends the message here|>";

Result<std::string> read_if_there(const std::filesystem::path& path) {
  Result<std::string> text = read_text_file(path, kMaxFileBytes);
  if (!text && text.error().code == Code::not_found) return std::string();
  return text;
}

// The template, or of a list of {name, template} the one named "default".
Result<std::string> template_of(const json::object& config) {
  const json::value* value = config.if_contains("chat_template");
  if (value == nullptr || value->is_null()) return std::string();
  if (value->is_string()) return std::string(value->get_string());
  const json::array* list = value->if_array();
  for (const json::value& entry : list != nullptr ? *list : json::array()) {
    const json::object* named = entry.if_object();
    const json::value* name = named != nullptr ? named->if_contains("name") : nullptr;
    const json::value* text = named != nullptr ? named->if_contains("template") : nullptr;
    if (name == nullptr || text == nullptr || !name->is_string() || !text->is_string()) break;
    if (name->get_string() == "default") return std::string(text->get_string());
  }
  return Status{
      Code::invalid_argument,
      fmt::format("{}: chat_template must be a text, or a list of {{name, template}} with one named default",
                  kConfigFile)};
}

// Tokens are written as a text or as an object with `content`.
json::object special_tokens_of(const json::object& config) {
  json::object tokens;
  for (const std::string_view name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    const json::value* value = config.if_contains(name);
    if (value != nullptr && value->is_object()) value = value->get_object().if_contains("content");
    if (value != nullptr && value->is_string()) tokens[name] = value->get_string();
  }
  return tokens;
}

// The text of the last message that a prompt may continue: its content, or the last text part of it.
json::string* final_text(json::array& messages) {
  json::object* last = messages.empty() ? nullptr : messages.back().if_object();
  json::value* content = last != nullptr ? last->if_contains("content") : nullptr;
  if (content == nullptr) return nullptr;
  if (content->is_string()) return &content->get_string();
  if (!content->is_array()) return nullptr;
  json::array& parts = content->get_array();
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    json::value* text = part->is_object() ? part->get_object().if_contains("text") : nullptr;
    if (text != nullptr && text->is_string()) return &text->get_string();
  }
  return nullptr;
}

Result<std::string> cut_at_mark(std::string text) {
  const size_t mark = text.rfind(kEndMark);
  if (mark == std::string::npos)
    return Status{Code::invalid_argument,
                  "continue_final_message: the chat template does not print the last message's content"};
  const bool trimmed = !std::string_view(text).substr(mark + kEndMark.size()).starts_with(' ');
  text.resize(mark);
  if (trimmed) text.resize(jinja::strip_right(text, std::nullopt).size());
  return text;
}

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::load(const std::filesystem::path& dir) {
  GH_ASSIGN(const std::string jinja, read_if_there(dir / kJinjaFile));
  GH_ASSIGN(const std::string config, read_if_there(dir / kConfigFile));
  Result<std::unique_ptr<ChatTemplate>> made = parse(jinja, config);
  if (!made) return Status{made.error().code, fmt::format("{}: {}", dir.string(), made.error().message)};
  return made;
}

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(std::string_view jinja,
                                                          std::string_view tokenizer_config_json) {
  json::object config;
  if (!tokenizer_config_json.empty()) {
    GH_ASSIGN(config, parse_json_object(tokenizer_config_json, kConfigFile));
  }
  std::string source(jinja);
  std::string_view file = kJinjaFile;
  if (source.empty()) {
    GH_ASSIGN(source, template_of(config));
    file = kConfigFile;
  }
  if (source.empty()) return std::unique_ptr<ChatTemplate>();
  Result<jinja::JinjaTemplate> parsed = jinja::JinjaTemplate::parse(source);
  if (!parsed) return Status{parsed.error().code, fmt::format("{}: {}", file, parsed.error().message)};
  return std::unique_ptr<ChatTemplate>(
      new ChatTemplate(*std::move(parsed), std::move(source), special_tokens_of(config)));
}

Result<std::string> ChatTemplate::render(ChatPrompt prompt) const {
  if (prompt.continue_final_message) {
    json::string* text = final_text(prompt.messages);
    if (text == nullptr)
      return Status{Code::invalid_argument,
                    "continue_final_message: the last message has no text to continue"};
    text->append(kEndMark);
    text->append(" ");
  }
  json::object names = std::move(prompt.more_names);
  for (const auto& token : special_tokens_) names[token.key()] = token.value();
  for (const std::string_view name : {"tools", "documents"}) names[name] = nullptr;
  names["messages"] = std::move(prompt.messages);
  names["add_generation_prompt"] = prompt.add_generation_prompt;
  GH_ASSIGN(std::string text, parsed_.render(names, std::chrono::system_clock::now));
  if (!prompt.continue_final_message) return text;
  return cut_at_mark(std::move(text));
}

}  // namespace guildhall
