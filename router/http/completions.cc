#include "router/http/completions.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>

#include "router/http/json_fields.h"
#include "router/http/message.h"
#include "router/http/sampling_fields.h"

namespace guildhall {
namespace {

namespace json = boost::json;

constexpr std::string_view kFields[] = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "allowed_token_ids", "min_tokens", "stop",
    "stop_token_ids", "ignore_eos", "n", "best_of", "stream", "stream_options", "echo", "logprobs", "user",
    "cache_salt", "priority", "prompt_logprobs", "return_token_ids", "include_stop_str_in_output",
    "request_id", "timeout", "routed_experts", "return_routed_experts",
    // Labels for OpenAI's own dashboards: nothing to do with them, nothing to warn about.
    "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"};

// Fields of OpenAI's and other servers' APIs that would change the answer. Each is accepted at the value that
// changes nothing.
struct UnsupportedField {
  std::string_view name;
  bool (*neutral)(const json::value&);
  std::string_view remedy;
};

bool is_empty(const json::value& v) {
  return (v.is_object() && v.get_object().empty()) || (v.is_array() && v.get_array().empty()) ||
         (v.is_string() && v.get_string().empty());
}
bool is_one(const json::value& v) { return v.is_number() && v.to_number<double>() == 1; }
bool is_zero(const json::value& v) { return v.is_number() && v.to_number<double>() == 0; }
bool is_false(const json::value& v) { return v.is_bool() && !v.get_bool(); }
bool is_true(const json::value& v) { return v.is_bool() && v.get_bool(); }
bool is_plain_text(const json::value& v) {
  const json::value* type = v.is_object() ? v.get_object().if_contains("type") : nullptr;
  return type && type->is_string() && type->get_string() == "text";
}
bool is_none(const json::value& v) { return v.is_string() && v.get_string() == "none"; }
bool never(const json::value&) { return false; }

constexpr UnsupportedField kUnsupported[] = {
    {"suffix", is_empty,
     "this model only goes on where a prompt ends: leave it out, or put the text into the prompt"},
    {"length_penalty", is_one, "leave it out"},
    {"use_beam_search", is_false, "leave it out, and use n"},
    {"response_format", is_plain_text, "leave it out or send {\"type\": \"text\"}"},
    {"tools", is_empty, "leave it out"},
    {"tool_choice", is_none, "leave it out"},
    {"functions", is_empty, "leave it out"},
    {"guided_json", never, "leave it out"},
    {"guided_regex", never, "leave it out"},
    {"guided_choice", never, "leave it out"},
    {"guided_grammar", never, "leave it out"},
    {"grammar", is_empty, "leave it out"},
    {"structured_outputs", is_empty, "leave it out"},
    {"bad_words", is_empty, "leave it out"},
    {"return_tokens_as_token_ids", is_false, "use return_token_ids"},
    // Samplers that other servers have.
    {"typical_p", is_one, "leave it out, and use min_p or top_p"},
    {"mirostat", is_zero, "leave it out"},
    {"dynatemp_range", is_zero, "leave it out"},
    {"xtc_probability", is_zero, "leave it out"},
    {"dry_multiplier", is_zero, "leave it out, and use repetition_penalty"},
    {"repeat_penalty", is_one, "use repetition_penalty"},
    {"n_predict", never, "use max_tokens"},
    {"logits_processors", is_empty, "leave it out, and use logit_bias or allowed_token_ids"},
    {"truncate_prompt_tokens", never, "leave it out, and shorten the prompt"},
    {"add_special_tokens", is_true, "leave it out, or send the prompt as token ids"},
    {"skip_special_tokens", is_true, "leave it out"},
    {"spaces_between_special_tokens", is_true, "leave it out"},
    {"prompt_embeds", never, "send prompt"},
};

ApiResult<void> refuse_unsupported(const json::object& body) {
  for (const UnsupportedField& field : kUnsupported)
    if (const json::value* value = find_field(body, field.name); value && !field.neutral(*value))
      return unsupported_field(field.name, field.remedy);
  return {};
}

Prompt text_prompt(std::string_view text, const CompletionRules& rules) {
  return {rules.tokenizer->encode(text, EncodeOptions{}), std::string(text)};
}

ApiResult<std::vector<Prompt>> parse_prompts(const json::object& body, const CompletionRules& rules) {
  constexpr std::string_view kWanted =
      "must be a string, a list of strings, a list of token ids, or a list of such lists";
  const json::value* value = find_field(body, "prompt");
  if (!value)
    return ApiError{400, "prompt is missing; send a string or token ids", "prompt", "missing_field"};
  std::vector<Prompt> prompts;
  if (value->is_string()) {
    prompts.push_back(text_prompt(value->get_string(), rules));
    return prompts;
  }
  const json::array* array = value->if_array();
  if (!array) return bad_field("prompt", kWanted);
  if (array->empty()) return bad_field("prompt", "is an empty list; give at least one prompt");
  if (array->front().is_number()) {
    GH_ASSIGN(std::vector<int32_t> ids, read_token_ids(*value, "prompt", rules.vocab_size()));
    prompts.push_back({std::move(ids), std::nullopt});
    return prompts;
  }
  if (array->size() > static_cast<size_t>(kMaxSequences))
    return bad_field("prompt", fmt::format("has {} prompts; send at most {} in one request", array->size(),
                                           kMaxSequences));
  bool texts = array->front().is_string();
  for (const json::value& item : *array) {
    if (texts ? !item.is_string() : !item.is_array()) return bad_field("prompt", kWanted);
    if (texts) {
      prompts.push_back(text_prompt(item.get_string(), rules));
      continue;
    }
    GH_ASSIGN(std::vector<int32_t> ids, read_token_ids(item, "prompt", rules.vocab_size()));
    prompts.push_back({std::move(ids), std::nullopt});
  }
  return prompts;
}

ApiResult<void> parse_stream(const json::object& body, CompletionCall& call) {
  GH_ASSIGN(call.stream, read_bool(body, "stream", false));
  const json::value* options = find_field(body, "stream_options");
  if (!options) return {};
  if (!call.stream) return bad_field("stream_options", "needs stream: true");
  if (!options->is_object())
    return bad_field("stream_options", "must be an object, like {\"include_usage\": true}");
  GH_ASSIGN(call.include_usage, read_bool(options->get_object(), "include_usage", false));
  return {};
}

ApiResult<void> parse_output(const json::object& body, CompletionCall& call) {
  GH_ASSIGN(auto n, read_int(body, "n", {1, kMaxChoices}));
  call.best_of = call.num_choices = static_cast<int>(n.value_or(1));
  GH_ASSIGN(auto priority, read_int(body, "priority", {-1000, 1000}));
  call.priority = static_cast<int32_t>(priority.value_or(0));
  GH_ASSIGN(auto timeout, read_number(body, "timeout", {0, kMaxTimeoutSeconds, /*min_excluded=*/true}));
  if (timeout)
    call.timeout = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(*timeout));
  GH_ASSIGN(auto cache_salt, read_string(body, "cache_salt"));
  call.cache_salt = cache_salt.value_or("");
  GH_TRY(parse_stream(body, call));

  GH_ASSIGN(auto prompt_logprobs, read_int(body, "prompt_logprobs", {0, kMaxLogprobs}));
  if (prompt_logprobs && call.stream)
    return bad_field("prompt_logprobs", "comes with whole answers only; leave it out or send stream: false");
  if (prompt_logprobs) call.num_prompt_logprobs = static_cast<int>(*prompt_logprobs);
  GH_ASSIGN(call.return_token_ids, read_bool(body, "return_token_ids", false));
  GH_ASSIGN(call.include_stop, read_bool(body, "include_stop_str_in_output", false));
  GH_ASSIGN(auto request_id, read_string(body, "request_id"));
  call.request_id = request_id.value_or("");
  if (request_id && !is_request_id(*request_id))
    return bad_field("request_id", "must be 1 to 128 printable characters without spaces");
  return {};
}

// The second is another server's name for it.
ApiResult<void> parse_routed_experts(const json::object& body, const CompletionRules& rules,
                                     CompletionCall& call) {
  for (const std::string_view name : {"routed_experts", "return_routed_experts"}) {
    GH_ASSIGN(const bool asked, read_bool(body, name, false));
    if (!asked) continue;
    if (rules.routing.num_layers == 0) return unsupported_field(name, "this model has no layer with experts");
    call.routed_experts = rules.routing;
  }
  return {};
}

// The likeliest are known when all have ended, which is too late for a stream.
ApiResult<void> parse_best_of(const json::object& body, CompletionCall& call) {
  GH_ASSIGN(auto best_of, read_int(body, "best_of", {1, kMaxChoices}));
  call.best_of = static_cast<int>(best_of.value_or(call.num_choices));
  if (call.best_of < call.num_choices)
    return bad_field("best_of", fmt::format("must be a whole number from n ({}) to {}, not {}",
                                            call.num_choices, kMaxChoices, call.best_of));
  if (call.stream && call.best_of > call.num_choices)
    return bad_field("best_of", fmt::format("must be n ({}) with stream: true", call.num_choices));
  return {};
}

// What /v1/chat/completions has otherwise or not at all.
ApiResult<void> parse_text_output(const json::object& body, CompletionCall& call) {
  GH_TRY(parse_best_of(body, call));
  GH_ASSIGN(call.echo, read_bool(body, "echo", false));
  GH_ASSIGN(auto logprobs, read_int(body, "logprobs", {0, kMaxLogprobs}));
  if (logprobs) call.num_logprobs = static_cast<int>(*logprobs);
  GH_ASSIGN(auto max_tokens, read_int(body, "max_tokens", {0, INT32_MAX}));
  call.max_tokens = static_cast<int32_t>(max_tokens.value_or(16));
  if (call.max_tokens == 0 && !call.echo)
    return bad_field("max_tokens", "must be at least 1 unless echo is true");
  return {};
}

}  // namespace

// The engine needs room for at least one generated token (engine_client.h), also when none is asked for.
ApiResult<void> check_lengths(const CompletionCall& call, const CompletionRules& rules) {
  GH_TRY(check_min_tokens(call));
  for (size_t i = 0; i < call.prompts.size(); ++i) {
    auto length = static_cast<int64_t>(call.prompts[i].ids.size());
    std::string which = call.prompts.size() == 1 ? "the prompt" : fmt::format("prompt {}", i);
    if (length == 0)
      return ApiError{400, which + " is empty; give at least one token", "prompt", "invalid_value"};
    int64_t room = rules.max_model_len - length;
    if (room >= std::max(call.max_tokens, 1)) continue;
    std::string remedy =
        room >= 1 ? fmt::format("{} can be at most {} with this prompt", call.max_tokens_name, room)
                  : fmt::format("the largest prompt that works is {} tokens, with {} 1",
                                rules.max_model_len - 1, call.max_tokens_name);
    return ApiError{
        400,
        fmt::format("{} has {} tokens and {} is {}, but this model's context is {} tokens: {}", which, length,
                    call.max_tokens_name, call.max_tokens, rules.max_model_len, remedy),
        std::string(room >= 1   ? call.max_tokens_name
                    : call.chat ? "messages"
                                : "prompt"),
        "context_length_exceeded"};
  }
  return {};
}

// How many ids of experts the answer may come to.
ApiResult<void> check_routed_experts(const CompletionCall& call) {
  if (!call.routed_experts) return {};
  const int64_t per_token = call.routed_experts->ids_per_token();
  int64_t num_prompt_tokens = 0;
  for (const Prompt& prompt : call.prompts) num_prompt_tokens += std::ssize(prompt.ids);
  if (!call.routes_prompt()) num_prompt_tokens = 0;
  const int64_t num_sequences = std::ssize(call.prompts) * call.best_of;
  const int64_t most_tokens = kMaxRoutedIds / per_token;
  if (num_prompt_tokens + num_sequences * call.max_tokens <= most_tokens) return {};
  const int64_t fits = (most_tokens - num_prompt_tokens) / num_sequences;
  return bad_field(
      "routed_experts",
      fmt::format("has {} numbers for each token, and an answer takes those of at most {} tokens; {}",
                  per_token, most_tokens,
                  fits > 0 ? fmt::format("{} can be at most {} here", call.max_tokens_name, fits)
                           : "send fewer or shorter prompts"));
}

ApiResult<void> check_model(const json::object& body, const std::string& model_name) {
  GH_ASSIGN(auto model, read_string(body, "model"));
  if (!model || *model == model_name) return {};
  return ApiError{404,
                  fmt::format("this server has no model {}; it serves {}",
                              json::serialize(json::value(*model)), model_name),
                  "model", "model_not_found"};
}

ApiResult<CompletionCall> parse_common(const json::object& body, const CompletionRules& rules) {
  GH_TRY(refuse_unsupported(body));
  CompletionCall call;
  GH_TRY(parse_sampling(body, rules, call));
  GH_TRY(parse_output(body, call));
  GH_TRY(parse_routed_experts(body, rules, call));
  GH_TRY(parse_stops(body, rules, call));
  return call;
}

// Cheap checks come first: the prompt is tokenised only when everything else is right.
ApiResult<CompletionCall> parse_completion(const json::object& body, const CompletionRules& rules) {
  GH_TRY(check_model(body, rules.model_name));
  GH_ASSIGN(CompletionCall call, parse_common(body, rules));
  GH_TRY(parse_text_output(body, call));
  GH_ASSIGN(call.prompts, parse_prompts(body, rules));
  GH_TRY(check_lengths(call, rules));
  int64_t num_sequences = static_cast<int64_t>(call.prompts.size()) * call.best_of;
  if (num_sequences > kMaxSequences)
    return bad_field(call.best_of > call.num_choices ? "best_of" : "n",
                     fmt::format("times {} prompts makes {} sequences; at most {} fit in one request",
                                 call.prompts.size(), num_sequences, kMaxSequences));
  GH_TRY(check_routed_experts(call));
  return call;
}

std::vector<std::string> unknown_completion_fields(const json::object& body) {
  std::vector<std::string> names;
  for (const auto& item : body) {
    std::string_view name = item.key();
    bool known = std::ranges::find(kFields, name) != std::end(kFields) ||
                 std::any_of(std::begin(kUnsupported), std::end(kUnsupported),
                             [&](const UnsupportedField& field) { return field.name == name; });
    if (!known) names.push_back(printable(name, 64));
  }
  return names;
}

}  // namespace guildhall
