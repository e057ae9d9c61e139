// chat_json.h: a call's deltas as OpenAI's `chat.completion` objects, whole or as stream events.
#pragma once

#include <boost/json/array.hpp>

#include "router/http/completion_json.h"

namespace guildhall {

class ChatJson final : public AnswerJson {
 public:
  ChatJson(const Tokenizer& tokenizer, std::string model_name, const CompletionCall& call);

  // A choice's first delta is two events, the role and then the text; the last one's reason to end is one
  // more.
  std::vector<std::string> chunks(const ChoiceDelta& delta) override;
  std::string whole(const std::vector<ChoiceDelta>& choices, const TokenUsage& usage) const override;

 private:
  boost::json::object chunk(int index, boost::json::object delta, boost::json::value logprobs,
                            std::optional<std::string_view> finish_reason) const;
  boost::json::value logprobs(const std::vector<ScoredToken>& tokens) const;
  boost::json::object scored(const TokenLogprob& token) const;
};

}  // namespace guildhall
