// completion_json.h: a call's deltas as OpenAI's `text_completion` objects, whole or as stream events.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "router/http/generation.h"

namespace guildhall {

class CompletionJson {
 public:
  CompletionJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call);

  std::string chunk(const ChoiceDelta& delta) const;       // one event's data
  std::string usage_chunk(const TokenUsage& usage) const;  // the last event with include_usage: no choices
  std::string whole(const std::vector<ChoiceDelta>& choices, const TokenUsage& usage) const;

 private:
  // A token as a JSON key: its text, or "bytes:\xe2\x80" where it is not whole UTF-8 by itself.
  std::string token_key(int32_t id) const;
  boost::json::object head() const;
  boost::json::object choice(const ChoiceDelta& delta) const;
  boost::json::object logprobs(const std::vector<ScoredToken>& tokens) const;

  const Tokenizer& tokenizer_;
  std::string model_name_, id_;
  int64_t created_;  // seconds since 1970
  bool with_logprobs_, with_usage_;
};

// Hexadecimal digits from the system's generator: request and completion ids.
std::string random_hex(int num_digits);

}  // namespace guildhall
