// chat_template.h: the template a checkpoint brings for conversations, with the special tokens it may print.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "model/chat_template/jinja_template.h"

namespace guildhall {

struct ChatPrompt {
  boost::json::array messages;     // objects, with at least a role each
  boost::json::object more_names;  // what else the template sees: enable_thinking...
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the prompt ends where the last message's content does
};

// Immutable: any thread may render.
class ChatTemplate {
 public:
  // Reads DIR/chat_template.jinja, else the chat_template in DIR/tokenizer_config.json; null when there is
  // neither. Errors name the file.
  static Result<std::unique_ptr<ChatTemplate>> load(const std::filesystem::path& dir);
  // `jinja`: the text of chat_template.jinja; empty: there is no such file.
  static Result<std::unique_ptr<ChatTemplate>> parse(std::string_view jinja,
                                                     std::string_view tokenizer_config_json);

  // The text to encode, without any special tokens beyond those in it. A template's raise_exception gives its
  // own message.
  Result<std::string> render(ChatPrompt prompt) const;
  const std::string& source() const { return source_; }

 private:
  ChatTemplate(jinja::JinjaTemplate parsed, std::string source, boost::json::object tokens)
      : parsed_(std::move(parsed)), source_(std::move(source)), special_tokens_(std::move(tokens)) {}

  jinja::JinjaTemplate parsed_;
  std::string source_;
  boost::json::object special_tokens_;  // bos_token and so on, those that the checkpoint has
};

}  // namespace guildhall
