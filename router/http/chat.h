// chat.h: the body of POST /v1/chat/completions becomes a CompletionCall, by way of the model's chat
// template.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "router/http/completions.h"

namespace guildhall {

// The prompt that `messages` and what else the body says of it make.
ApiResult<std::string> render_chat(const boost::json::object& body, const CompletionRules& rules);

// The template's text as ids. It brings its special tokens itself.
std::vector<int32_t> encode_chat(std::string_view text, const CompletionRules& rules);

ApiResult<CompletionCall> parse_chat(const boost::json::object& body, const CompletionRules& rules);

// Names in the body that mean nothing here, for one line in the log.
std::vector<std::string> unknown_chat_fields(const boost::json::object& body);

}  // namespace guildhall
