// chat_template_test.cc: where a checkpoint's template comes from, and the prompts it makes.
#include "model/chat_template/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::HasSubstr;

ChatPrompt one(std::string_view content, std::string_view role = "user") {
  ChatPrompt prompt;
  prompt.messages.push_back({{"role", role}, {"content", content}});
  return prompt;
}
std::string render(std::string_view jinja, std::string_view config, ChatPrompt prompt) {
  const auto made = ChatTemplate::parse(jinja, config);
  if (!made) return "refused: " + made.error().message;
  if (!*made) return "none";
  const auto text = (*made)->render(std::move(prompt));
  return text ? *text : "failed: " + text.error().message;
}

TEST(ChatTemplate, ItsOwnFileGoesOverTheConfiguration) {
  const std::string_view config = R"({"chat_template": "config", "bos_token": "<s>"})";
  EXPECT_EQ(render("file", config, one("x")), "file");
  EXPECT_EQ(render("", config, one("x")), "config");
  EXPECT_EQ(render("", "{}", one("x")), "none");
  EXPECT_EQ(render("", "", one("x")), "none");
}

TEST(ChatTemplate, OfAListTheDefaultIsTaken) {
  EXPECT_EQ(render("", R"({"chat_template": [{"name": "tool_use", "template": "t"},
                                             {"name": "default", "template": "d"}]})",
                   one("x")),
            "d");
  EXPECT_THAT(render("", R"({"chat_template": [{"name": "tool_use", "template": "t"}]})", one("x")),
              HasSubstr("one named default"));
  EXPECT_THAT(render("", R"({"chat_template": 5})", one("x")), HasSubstr("chat_template must be a text"));
}

TEST(ChatTemplate, SpecialTokensAreTextsOrObjects) {
  EXPECT_EQ(render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}",
                   R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null})", one("x")),
            "<s>x</s>");
}

TEST(ChatTemplate, AContinuedMessageEndsThePrompt) {
  ChatPrompt prompt = one("so it ", "assistant");
  prompt.continue_final_message = true, prompt.add_generation_prompt = false;
  EXPECT_EQ(render("<{{ messages[0].content }}>", "", prompt), "<so it ");
  EXPECT_EQ(render("<{{ messages[0].content | trim }}>", "", prompt), "<so it");
  EXPECT_THAT(render("nothing of it", "", prompt), HasSubstr("does not print the last message"));
}

TEST(ChatTemplate, ErrorsNameTheFileOrAreTheTemplatesOwn) {
  EXPECT_THAT(render("{% if %}", "", one("x")), HasSubstr("chat_template.jinja: "));
  EXPECT_THAT(render("", R"({"chat_template": "{% if %}"})", one("x")), HasSubstr("tokenizer_config.json: "));
  EXPECT_THAT(render("{{ raise_exception('roles must alternate') }}", "", one("x")),
              HasSubstr("roles must alternate"));
}

}  // namespace
}  // namespace guildhall
