#include "router/http/chat_json.h"

#include <boost/json.hpp>

namespace guildhall {
namespace {

namespace json = boost::json;

json::value text_or_null(std::optional<std::string_view> text) {
  return text ? json::value(*text) : json::value(nullptr);
}

}  // namespace

ChatJson::ChatJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call)
    : AnswerJson(tokenizer, std::move(model_name), call,
                 {"chatcmpl-", "chat.completion", "chat.completion.chunk"}) {}

json::object ChatJson::scored(const TokenLogprob& token) const {
  const std::string_view bytes = tokenizer_.token_bytes(token.token, /*skip_special_tokens=*/false);
  json::array numbers;
  for (const unsigned char byte : bytes) numbers.push_back(byte);
  json::object object;
  object["token"] = token_key(token.token);
  object["logprob"] = finite(token.logprob);
  object["bytes"] = std::move(numbers);
  return object;
}

json::value ChatJson::logprobs(const std::vector<ScoredToken>& tokens) const {
  if (!with_logprobs_) return nullptr;
  json::array content;
  for (const ScoredToken& token : tokens) {
    if (!token.logprobs) continue;
    json::object object = scored(token.logprobs->chosen);
    json::array top;
    for (const TokenLogprob& other : token.logprobs->top) top.push_back(scored(other));
    object["top_logprobs"] = std::move(top);
    content.push_back(std::move(object));
  }
  json::object object;
  object["content"] = std::move(content);
  object["refusal"] = nullptr;
  return object;
}

json::object ChatJson::chunk(int index, json::object delta, json::value logprobs,
                             std::optional<std::string_view> finish_reason) const {
  json::object choice;
  choice["index"] = index;
  choice["delta"] = std::move(delta);
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = text_or_null(finish_reason);
  json::object object = head(/*streamed=*/true);
  json::array choices;
  choices.push_back(std::move(choice));
  object["choices"] = std::move(choices);
  if (with_usage_) object["usage"] = nullptr;
  return object;
}

std::vector<std::string> ChatJson::chunks(const ChoiceDelta& delta) {
  std::vector<std::string> events;
  if (begins(delta.index)) {
    json::object role;
    role["role"] = "assistant";
    role["content"] = "";
    role["refusal"] = nullptr;
    json::object event = chunk(delta.index, std::move(role), nullptr, std::nullopt);
    if (call_.return_token_ids) event["prompt_token_ids"] = prompt_ids(delta.index);
    events.push_back(json::serialize(event));
  }
  if (!delta.text.empty() || !delta.tokens.empty() || !delta.token_ids.empty() ||
      !delta.routed_experts.empty()) {
    json::object content;
    content["content"] = delta.text;
    json::object event = chunk(delta.index, std::move(content), logprobs(delta.tokens), std::nullopt);
    if (call_.return_token_ids)
      event["choices"].at(0).as_object()["token_ids"] =
          json::array(delta.token_ids.begin(), delta.token_ids.end());
    if (call_.routed_experts)
      event["choices"].at(0).as_object()["routed_experts"] = routed_experts(delta.routed_experts);
    events.push_back(json::serialize(event));
  }
  if (delta.finish_reason)
    events.push_back(json::serialize(chunk(delta.index, {}, nullptr, delta.finish_reason)));
  return events;
}

std::string ChatJson::whole(const std::vector<ChoiceDelta>& deltas, const TokenUsage& usage) const {
  json::array choices;
  for (const ChoiceDelta& delta : deltas) {
    json::object message;
    message["role"] = "assistant";
    message["content"] = delta.text;
    message["refusal"] = nullptr;
    json::object choice;
    choice["index"] = delta.index;
    choice["message"] = std::move(message);
    choice["logprobs"] = logprobs(delta.tokens);
    choice["finish_reason"] = text_or_null(delta.finish_reason);
    if (call_.return_token_ids)
      choice["token_ids"] = json::array(delta.token_ids.begin(), delta.token_ids.end());
    if (call_.routed_experts) choice["routed_experts"] = routed_experts(delta.routed_experts);
    choices.push_back(std::move(choice));
  }
  json::object object = head(/*streamed=*/false);
  object["choices"] = std::move(choices);
  object["usage"] = usage_object(usage);
  // A conversation is one prompt.
  if (call_.num_prompt_logprobs) object["prompt_logprobs"] = prompt_logprobs(deltas.front().prompt_logprobs);
  if (call_.routes_prompt())
    object["prompt_routed_experts"] = routed_experts(deltas.front().prompt_routed_experts);
  if (call_.return_token_ids) object["prompt_token_ids"] = prompt_ids(0);
  return json::serialize(object);
}

}  // namespace guildhall
