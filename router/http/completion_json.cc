#include "router/http/completion_json.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <random>

namespace guildhall {
namespace {

namespace json = boost::json;

bool is_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t code_point;
    utf8proc_ssize_t used = utf8proc_iterate(bytes, left, &code_point);
    if (used <= 0) return false;
    bytes += used;
    left -= used;
  }
  return true;
}

}  // namespace

std::string random_hex(int num_digits) {
  thread_local std::mt19937_64 generator{(uint64_t{std::random_device{}()} << 32) ^ std::random_device{}()};
  std::string digits;
  while (digits.size() < static_cast<size_t>(num_digits)) digits += fmt::format("{:016x}", generator());
  digits.resize(static_cast<size_t>(num_digits));
  return digits;
}

AnswerJson::AnswerJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call,
                       Kind kind)
    : tokenizer_(tokenizer),
      call_(call),
      with_logprobs_(call.num_logprobs.has_value()),
      with_usage_(call.include_usage),
      model_name_(std::move(model_name)),
      id_(std::string(kind.id_prefix) + (call.request_id.empty() ? random_hex(32) : call.request_id)),
      kind_(kind),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

double AnswerJson::finite(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0;
}

json::object AnswerJson::usage_object(const TokenUsage& usage) {
  json::object object;
  object["prompt_tokens"] = usage.prompt_tokens;
  object["completion_tokens"] = usage.completion_tokens;
  object["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  object["prompt_tokens_details"] = {{"cached_tokens", usage.cached_tokens}};
  return object;
}

json::array AnswerJson::prompt_logprobs(const std::vector<PositionLogprobs>& positions) const {
  json::array list;
  list.push_back(nullptr);  // nothing predicts the first token
  for (const PositionLogprobs& position : positions) {
    json::object tokens;
    const auto add = [&](const TokenLogprob& token, int64_t rank) {
      tokens[std::to_string(token.token)] = {
          {"logprob", finite(token.logprob)}, {"rank", rank}, {"decoded_token", token_key(token.token)}};
    };
    add(position.chosen, position.rank);
    for (size_t k = 0; k < position.top.size(); ++k)
      if (position.top[k].token != position.chosen.token) add(position.top[k], static_cast<int64_t>(k) + 1);
    list.push_back(std::move(tokens));
  }
  return list;
}

json::array AnswerJson::routed_experts(const std::vector<uint16_t>& ids) const {
  const RoutingShape& shape = *call_.routed_experts;
  json::array tokens;
  for (auto at = ids.begin(); at != ids.end();) {
    json::array layers;
    const bool known = *at != kNotRouted;
    for (int64_t layer = 0; layer < shape.num_layers; ++layer, at += shape.top_k)
      if (known) layers.push_back(json::array(at, at + shape.top_k));
    tokens.push_back(known ? json::value(std::move(layers)) : json::value(nullptr));
  }
  return tokens;
}

json::array AnswerJson::prompt_ids(int index) const {
  const auto& ids = call_.prompts[static_cast<size_t>(index / call_.num_choices)].ids;
  return json::array(ids.begin(), ids.end());
}

std::string AnswerJson::token_key(int32_t id) const {
  std::string_view bytes = tokenizer_.token_bytes(id, /*skip_special_tokens=*/false);
  if (is_utf8(bytes)) return std::string(bytes);
  std::string key = "bytes:";
  for (unsigned char byte : bytes) key += fmt::format("\\x{:02x}", byte);
  return key;
}

json::object AnswerJson::head(bool streamed) const {
  json::object object;
  object["id"] = id_;
  object["object"] = streamed ? kind_.chunk_object : kind_.object;
  object["created"] = created_;
  object["model"] = model_name_;
  object["system_fingerprint"] = nullptr;
  return object;
}

CompletionJson::CompletionJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call)
    : AnswerJson(tokenizer, std::move(model_name), call, {"cmpl-", "text_completion", "text_completion"}) {}

json::object CompletionJson::logprobs(const std::vector<ScoredToken>& tokens) const {
  json::array keys, chosen, tops, offsets;
  for (const ScoredToken& token : tokens) {
    keys.push_back(json::string(token_key(token.id)));
    offsets.push_back(token.text_offset);
    if (!token.logprobs) {
      chosen.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    chosen.push_back(finite(token.logprobs->chosen.logprob));
    json::object top;
    for (const TokenLogprob& other : token.logprobs->top)
      top.emplace(token_key(other.token), finite(other.logprob));
    top.emplace(token_key(token.logprobs->chosen.token), finite(token.logprobs->chosen.logprob));
    tops.push_back(std::move(top));
  }
  json::object object;
  object["tokens"] = std::move(keys);
  object["token_logprobs"] = std::move(chosen);
  object["top_logprobs"] = std::move(tops);
  object["text_offset"] = std::move(offsets);
  return object;
}

json::object CompletionJson::choice(const ChoiceDelta& delta) const {
  json::object object;
  object["index"] = delta.index;
  object["text"] = delta.text;
  if (with_logprobs_)
    object["logprobs"] = logprobs(delta.tokens);
  else
    object["logprobs"] = nullptr;
  if (delta.finish_reason)
    object["finish_reason"] = *delta.finish_reason;
  else
    object["finish_reason"] = nullptr;
  if (call_.return_token_ids)
    object["token_ids"] = json::array(delta.token_ids.begin(), delta.token_ids.end());
  if (call_.routed_experts) object["routed_experts"] = routed_experts(delta.routed_experts);
  if (!delta.prompt_routed_experts.empty())
    object["prompt_routed_experts"] = routed_experts(delta.prompt_routed_experts);
  return object;
}

std::vector<std::string> CompletionJson::chunks(const ChoiceDelta& delta) {
  json::object object = head(/*streamed=*/true);
  json::object one = choice(delta);
  if (call_.return_token_ids && begins(delta.index)) one["prompt_token_ids"] = prompt_ids(delta.index);
  json::array choices;
  choices.push_back(std::move(one));
  object["choices"] = std::move(choices);
  if (with_usage_) object["usage"] = nullptr;
  return {json::serialize(object)};
}

std::string AnswerJson::usage_chunk(const TokenUsage& usage) const {
  json::object object = head(/*streamed=*/true);
  object["choices"] = json::array();
  object["usage"] = usage_object(usage);
  return json::serialize(object);
}

std::string CompletionJson::whole(const std::vector<ChoiceDelta>& deltas, const TokenUsage& usage) const {
  json::object object = head(/*streamed=*/false);
  json::array choices;
  for (const ChoiceDelta& delta : deltas) {
    json::object one = choice(delta);
    if (call_.return_token_ids) one["prompt_token_ids"] = prompt_ids(delta.index);
    if (call_.num_prompt_logprobs) one["prompt_logprobs"] = prompt_logprobs(delta.prompt_logprobs);
    choices.push_back(std::move(one));
  }
  object["choices"] = std::move(choices);
  object["usage"] = usage_object(usage);
  return json::serialize(object);
}

}  // namespace guildhall
