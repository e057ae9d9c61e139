// completions.h: the body of POST /v1/completions becomes a CompletionCall, or an error that says what to
// change.
#pragma once

#include <algorithm>
#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/sampling.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "router/http/errors.h"
#include "router/logit_rules.h"
#include "router/routed_experts.h"

namespace guildhall {

// What one call may ask for at most. The body limit bounds the rest.
inline constexpr int64_t kMaxChoices = 128;  // n: OpenAI's bound
inline constexpr int64_t kMaxSequences =
    1024;  // prompts x n: the engine's queue is shared with other callers
inline constexpr double kMaxTimeoutSeconds = 86400;
inline constexpr int64_t kMaxLogprobs = 20;  // the engine's bound
// Ids of experts: as JSON 8 MB, and 50 MB while it is made. 4500 tokens of 58 layers with 8 experts each.
inline constexpr int64_t kMaxRoutedIds = 1 << 21;

struct Prompt {
  std::vector<int32_t> ids;
  std::optional<std::string> text;  // as given; absent when ids were given
};

struct CompletionCall {
  std::vector<Prompt> prompts;
  int num_choices = 1;  // per prompt
  int best_of =
      1;  // drawn per prompt, of which the num_choices likeliest per token are answered; >= num_choices
  int32_t max_tokens = 16;
  std::string_view max_tokens_name = "max_tokens";  // the field that gave it, for errors
  SamplingRule sampling;
  LogitRules logit_rules;
  uint64_t seed = 0;  // random when the caller gave none
  std::vector<std::string> stops;
  std::vector<int32_t> stop_token_ids;  // with eos, unless ignored
  std::optional<int> num_logprobs, num_prompt_logprobs;
  int32_t priority = 0;           // lower goes first
  std::string tenant;             // of the API key
  std::string cache_salt;         // only calls of the same salt share what is in the KV cache
  std::string request_id;         // the caller's; empty: none
  bool chat = false;              // answered with messages
  bool include_stop = false;      // stop strings and tokens are part of the text
  bool return_token_ids = false;  // of prompt and answer
  bool echo = false, stream = false, include_usage = false;
  std::optional<RoutingShape> routed_experts;        // they were asked for, and have this shape
  std::optional<std::chrono::milliseconds> timeout;  // for the whole call

  // Who asks what the model says of the prompt is told of the prompt's experts as well.
  bool routes_prompt() const { return routed_experts && (echo || num_prompt_logprobs); }
};

// What the model behind the endpoint allows.
struct CompletionRules {
  std::string model_name;
  int32_t max_model_len = 0;  // tokens of prompt and completion together
  const Tokenizer* tokenizer = nullptr;
  std::vector<int32_t> eos_token_ids;
  int32_t model_vocab_size = 0;                 // 0: the tokenizer's
  const ChatTemplate* chat_template = nullptr;  // null: the model has none
  RoutingShape routing;                         // without layers: no layer has experts

  // Ids that a prompt may hold are below this.
  int32_t vocab_size() const { return std::max(model_vocab_size, tokenizer->vocab_size()); }
};

ApiResult<CompletionCall> parse_completion(const boost::json::object& body, const CompletionRules& rules);

// What calls of both kinds share: sampling, stops, how many answers, streaming, priority. Fields that are
// known but not done are refused.
ApiResult<CompletionCall> parse_common(const boost::json::object& body, const CompletionRules& rules);
// Whether prompts, min_tokens and max_tokens fit each other and the context.
ApiResult<void> check_lengths(const CompletionCall& call, const CompletionRules& rules);
ApiResult<void> check_routed_experts(const CompletionCall& call);

// Names in the body that mean nothing here, for one line in the log.
std::vector<std::string> unknown_completion_fields(const boost::json::object& body);

// 404 unless `model` is absent or the served name.
ApiResult<void> check_model(const boost::json::object& body, const std::string& model_name);

}  // namespace guildhall
