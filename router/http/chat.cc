#include "router/http/chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "router/http/json_fields.h"

namespace guildhall {
namespace {

namespace json = boost::json;

// Beside those of /v1/completions.
constexpr std::string_view kChatFields[] = {"messages",
                                            "max_completion_tokens",
                                            "top_logprobs",
                                            "chat_template_kwargs",
                                            "add_generation_prompt",
                                            "continue_final_message",
                                            "reasoning_effort",
                                            "parallel_tool_calls",
                                            "modalities",
                                            "verbosity"};

// What a conversation cannot have yet, or has under another name.
struct RefusedField {
  std::string_view name, remedy;
};
constexpr RefusedField kRefused[] = {
    {"prompt", "send messages, or the prompt to /v1/completions"},
    {"chat_template", "the checkpoint's own template is used; chat_template_kwargs go to it"},
    {"documents", "put their text into a message"},
    {"function_call", "leave it out"},
    {"audio", "leave it out"},
    {"prediction", "leave it out"},
    {"web_search_options", "leave it out"},
};

ApiError bad_message(size_t index, std::string_view field, std::string_view problem) {
  const std::string name = fmt::format("messages[{}]{}", index, field);
  return bad_field(name, problem);
}

// Parts of text become one text, a line each: what templates for text models expect.
ApiResult<json::value> joined_parts(const json::array& parts, size_t index) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const json::object* part = parts[i].if_object();
    const json::value* type = part != nullptr ? part->if_contains("type") : nullptr;
    const json::value* content = part != nullptr ? part->if_contains("text") : nullptr;
    const bool is_text = type != nullptr && type->is_string() && type->get_string() == "text";
    if (!is_text || content == nullptr || !content->is_string())
      return bad_message(index, ".content",
                         "must hold parts of text only, like {\"type\": \"text\", \"text\": \"Hello\"}");
    if (i > 0) text += '\n';
    text += std::string_view(content->get_string());
  }
  return json::value(text);
}

ApiResult<json::object> read_message(const json::value& value, size_t index) {
  if (!value.is_object())
    return bad_message(index, "", "must be an object, like {\"role\": \"user\", \"content\": \"Hello\"}");
  json::object message = value.get_object();
  const json::value* role = message.if_contains("role");
  if (role == nullptr || !role->is_string() || role->get_string().empty())
    return bad_message(index, ".role", "must be a string, like user or assistant");
  json::value& content = message["content"];
  if (content.is_array()) {
    GH_ASSIGN(content, joined_parts(content.get_array(), index));
  } else if (content.is_null()) {
    // Beside calls of tools it may be null, which templates know; alone it says nothing.
    const json::value* calls = find_field(message, "tool_calls");
    if (calls == nullptr) content = "";
  } else if (!content.is_string()) {
    return bad_message(index, ".content", "must be a string, a list of text parts, or null");
  }
  return message;
}

ApiResult<ChatPrompt> read_prompt(const json::object& body) {
  const json::value* messages = find_field(body, "messages");
  if (!messages)
    return ApiError{400,
                    "messages is missing; send a list like [{\"role\": \"user\", \"content\": \"Hello\"}]",
                    "messages", "missing_field"};
  if (!messages->is_array() || messages->get_array().empty())
    return bad_field("messages", "must be a list of at least one message");
  ChatPrompt prompt;
  if (const json::value* kwargs = find_field(body, "chat_template_kwargs")) {
    if (!kwargs->is_object())
      return bad_field("chat_template_kwargs", "must be an object, like {\"enable_thinking\": false}");
    prompt.more_names = kwargs->get_object();
  }
  GH_ASSIGN(const auto effort, read_string(body, "reasoning_effort"));
  if (effort) prompt.more_names["reasoning_effort"] = *effort;
  for (const json::value& value : messages->get_array()) {
    GH_ASSIGN(json::object message, read_message(value, prompt.messages.size()));
    prompt.messages.push_back(std::move(message));
  }
  GH_ASSIGN(prompt.continue_final_message, read_bool(body, "continue_final_message", false));
  GH_ASSIGN(prompt.add_generation_prompt,
            read_bool(body, "add_generation_prompt", !prompt.continue_final_message));
  if (prompt.continue_final_message && prompt.add_generation_prompt)
    return bad_field("add_generation_prompt", "must be false with continue_final_message: true");
  return prompt;
}

// What changes nothing at one value, and is not done at another.
ApiResult<void> check_neutral(const json::object& body) {
  GH_TRY(read_bool(body, "parallel_tool_calls", true));
  const json::value* modalities = find_field(body, "modalities");
  if (modalities && *modalities != json::value(json::array{"text"}))
    return unsupported_field("modalities", "leave it out or send [\"text\"]");
  GH_ASSIGN(const auto verbosity, read_string(body, "verbosity"));
  if (verbosity && *verbosity != "medium")
    return unsupported_field("verbosity", "leave it out or send medium, and say it in a message");
  return {};
}

ApiResult<void> parse_chat_output(const json::object& body, CompletionCall& call) {
  GH_ASSIGN(const bool echo, read_bool(body, "echo", false));
  if (echo) return unsupported_field("echo", "leave it out; /apply-template shows the prompt");
  GH_ASSIGN(const auto best_of, read_int(body, "best_of", {1, kMaxChoices}));
  if (best_of && *best_of != call.num_choices)
    return unsupported_field("best_of", fmt::format("leave it out, or send n ({})", call.num_choices));
  GH_ASSIGN(const bool logprobs, read_bool(body, "logprobs", false));
  GH_ASSIGN(const auto top_logprobs, read_int(body, "top_logprobs", {0, kMaxLogprobs}));
  if (top_logprobs && !logprobs) return bad_field("top_logprobs", "needs logprobs: true");
  if (logprobs) call.num_logprobs = static_cast<int>(top_logprobs.value_or(0));
  return {};
}

// Without a limit, an answer may take what the context has left.
ApiResult<void> parse_max_tokens(const json::object& body, const CompletionRules& rules,
                                 CompletionCall& call) {
  GH_ASSIGN(const auto newer, read_int(body, "max_completion_tokens", {1, INT32_MAX}));
  GH_ASSIGN(const auto older, read_int(body, "max_tokens", {1, INT32_MAX}));
  const int64_t room = rules.max_model_len - std::ssize(call.prompts.front().ids);
  call.max_tokens = static_cast<int32_t>(newer ? *newer : older ? *older : std::max<int64_t>(1, room));
  if (newer) call.max_tokens_name = "max_completion_tokens";
  return {};
}

}  // namespace

ApiResult<std::string> render_chat(const json::object& body, const CompletionRules& rules) {
  if (!rules.chat_template)
    return ApiError{
        400,
        fmt::format(
            "{} has no chat template that this server can read (chat_template.jinja, or chat_template in "
            "tokenizer_config.json); send a prompt to /v1/completions",
            rules.model_name),
        "messages", "no_chat_template"};
  GH_ASSIGN(ChatPrompt prompt, read_prompt(body));
  Result<std::string> text = rules.chat_template->render(std::move(prompt));
  if (!text) return ApiError{400, text.error().message, "messages", "chat_template_error"};
  return *std::move(text);
}

std::vector<int32_t> encode_chat(std::string_view text, const CompletionRules& rules) {
  return rules.tokenizer->encode(text, {.add_special_tokens = false});
}

ApiResult<CompletionCall> parse_chat(const json::object& body, const CompletionRules& rules) {
  GH_TRY(check_model(body, rules.model_name));
  for (const RefusedField& field : kRefused)
    if (find_field(body, field.name)) return unsupported_field(field.name, field.remedy);
  GH_ASSIGN(CompletionCall call, parse_common(body, rules));
  call.chat = true;
  GH_TRY(check_neutral(body));
  GH_TRY(parse_chat_output(body, call));
  GH_ASSIGN(const std::string text, render_chat(body, rules));
  call.prompts.push_back({encode_chat(text, rules), std::nullopt});
  GH_TRY(parse_max_tokens(body, rules, call));
  GH_TRY(check_lengths(call, rules));
  GH_TRY(check_routed_experts(call));
  return call;
}

std::vector<std::string> unknown_chat_fields(const json::object& body) {
  std::vector<std::string> names = unknown_completion_fields(body);
  std::erase_if(names, [](const std::string& name) {  // a refused one that came is null
    return std::ranges::find(kChatFields, name) != std::end(kChatFields) ||
           std::ranges::find(kRefused, name, &RefusedField::name) != std::end(kRefused);
  });
  return names;
}

}  // namespace guildhall
