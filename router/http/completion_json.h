// completion_json.h: a call's deltas as OpenAI's objects, whole or as stream events: what is common to both
// kinds of answers, and `text_completion`.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <set>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "router/http/generation.h"

namespace guildhall {

// One call's. Not thread-safe.
class AnswerJson {
 public:
  virtual ~AnswerJson() = default;

  virtual std::vector<std::string> chunks(const ChoiceDelta& delta) = 0;  // the data of one or more events
  virtual std::string whole(const std::vector<ChoiceDelta>& choices, const TokenUsage& usage) const = 0;
  std::string usage_chunk(const TokenUsage& usage) const;  // the last event with include_usage: no choices

 protected:
  struct Kind {
    std::string_view id_prefix, object, chunk_object;
  };
  AnswerJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call, Kind kind);

  // A token as a JSON key: its text, or "bytes:\xe2\x80" where it is not whole UTF-8 by itself.
  std::string token_key(int32_t id) const;
  boost::json::object head(bool streamed) const;
  // JSON has no infinity; OpenAI's API says -9999 for a token that cannot happen.
  static double finite(float logprob);
  static boost::json::object usage_object(const TokenUsage& usage);
  // null, then per position of the prompt an object of the token there and its alternatives, by id.
  boost::json::array prompt_logprobs(const std::vector<PositionLogprobs>& positions) const;
  // Per token a list of layers of ids; null for a token that came from the KV cache.
  boost::json::array routed_experts(const std::vector<uint16_t>& ids) const;
  // The prompt of a choice, as ids.
  boost::json::array prompt_ids(int index) const;
  bool begins(int index) { return begun_.insert(index).second; }  // once per choice

  const Tokenizer& tokenizer_;
  const CompletionCall& call_;  // outlives this
  const bool with_logprobs_, with_usage_;

 private:
  std::set<int> begun_;
  std::string model_name_, id_;
  Kind kind_;
  int64_t created_;  // seconds since 1970
};

class CompletionJson final : public AnswerJson {
 public:
  CompletionJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call);

  std::vector<std::string> chunks(const ChoiceDelta& delta) override;
  std::string whole(const std::vector<ChoiceDelta>& choices, const TokenUsage& usage) const override;

 private:
  boost::json::object choice(const ChoiceDelta& delta) const;
  boost::json::object logprobs(const std::vector<ScoredToken>& tokens) const;
};

// Hexadecimal digits from the system's generator: request and completion ids.
std::string random_hex(int num_digits);

}  // namespace guildhall
