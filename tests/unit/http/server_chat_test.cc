// server_chat_test.cc: conversations: what reaches the engine, the shapes of answers, and refusals.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using boost::json::array;
using boost::json::object;
using ::testing::HasSubstr;

constexpr std::string_view kChat = "/v1/chat/completions";

class Chat : public HttpServerTest {
 protected:
  Chat() {
    template_ = ChatTemplate::parse(
                    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') "
                    "}}{% endif %}"
                    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if loud %}!{% endif %}"
                    "{% if add_generation_prompt %}[assistant]{% endif %}",
                    "")
                    .value();
    serve(template_.get());
  }
  RawReply chat(std::string_view body) { return RawClient(port()).post(kChat, body); }
  std::string prompt_of(std::string_view body) {
    const RawReply reply = RawClient(port()).post("/apply-template", body);
    return reply.status == 200 ? std::string(reply.json()["prompt"].as_string()) : reply.body;
  }

  std::unique_ptr<ChatTemplate> template_;
};

constexpr std::string_view kHi = R"("messages": [{"role": "user", "content": "hi"}])";
std::string with(std::string_view more) { return "{" + std::string(kHi) + std::string(more) + "}"; }

TEST_F(Chat, TheTemplatesTextIsThePrompt) {
  const RawReply reply = chat(with(R"(, "max_tokens": 3)"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const EngineRequest sent = engine_.requests().back();
  EXPECT_EQ(sent.prompt_ids, byte_ids("[user]hi[assistant]"));
  EXPECT_EQ(sent.max_tokens, 3);
  object body = reply.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_TRUE(body["id"].as_string().starts_with("chatcmpl-"));
  const object choice = body["choices"].at(0).as_object();
  EXPECT_EQ(choice.at("message"), (object{{"role", "assistant"}, {"content", "abc"}, {"refusal", nullptr}}));
  EXPECT_EQ(choice.at("finish_reason"), "length");
  EXPECT_EQ(body["usage"].at("prompt_tokens"), 19);
}

TEST_F(Chat, ContentIsTextPartsOrNothing) {
  EXPECT_EQ(prompt_of(R"({"messages": [{"role": "user", "content":
      [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}]})"),
            "[user]a\nb[assistant][assistant]");
  EXPECT_EQ(prompt_of(with(R"(, "add_generation_prompt": false, "chat_template_kwargs": {"loud": true})")),
            "[user]hi!");
  EXPECT_EQ(
      prompt_of(R"({"continue_final_message": true, "messages": [{"role": "assistant", "content": "so"}]})"),
      "[assistant]so");
}

TEST_F(Chat, WithoutALimitTheAnswerMayFillTheContext) {
  engine_.hold();
  RawClient client(port());
  const std::string body = with(R"(, "stream": true)");
  client.send(post_bytes(kChat, body));
  ASSERT_TRUE(engine_.wait_submitted(1));
  EXPECT_EQ(engine_.requests().back().max_tokens, 1024 - 19);
}

TEST_F(Chat, TheNewerLimitGoesOverTheOlder) {
  chat(with(R"(, "max_tokens": 9, "max_completion_tokens": 2)"));
  EXPECT_EQ(engine_.requests().back().max_tokens, 2);
}

TEST_F(Chat, AStreamBeginsWithTheRoleAndEndsWithTheReason) {
  engine_.hold();
  RawClient client(port());
  const std::string body =
      with(R"(, "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 9)");
  client.send(post_bytes(kChat, body));
  ASSERT_TRUE(engine_.wait_submitted(1));
  engine_.emit(1, tokens_event({'a'}));
  EXPECT_EQ(client.read_head().status, 200);
  const auto next = [&] {
    const std::string event = client.read_event().value_or("");
    EXPECT_TRUE(event.starts_with("data: {")) << event;
    return boost::json::parse(event.substr(6)).as_object();
  };
  const object role = next();
  EXPECT_EQ(role.at("object"), "chat.completion.chunk");
  EXPECT_EQ(role.at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_EQ(next().at("choices").at(0).at("delta"), (object{{"content", "a"}}));
  engine_.emit(1, tokens_event({'b'}, FinishReason::stop));
  EXPECT_EQ(next().at("choices").at(0).at("delta"), (object{{"content", "b"}}));
  const object last = next();
  EXPECT_EQ(last.at("choices").at(0).at("delta"), object{});
  EXPECT_EQ(last.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(next().at("usage").at("completion_tokens"), 2);
  EXPECT_EQ(client.read_event(), "data: [DONE]");
}

TEST_F(Chat, LogprobsHaveTheirOwnShape) {
  object body = chat(with(R"(, "max_tokens": 2, "logprobs": true, "top_logprobs": 2)")).json();
  const array content = body["choices"].at(0).at("logprobs").at("content").as_array();
  ASSERT_EQ(content.size(), 2u);
  EXPECT_EQ(content[0].at("token"), "a");
  EXPECT_EQ(content[0].at("bytes"), array{97});
  EXPECT_EQ(content[0].at("top_logprobs").as_array().size(), 2u);
}

TEST_F(Chat, RefusalsNameTheField) {
  const auto refused = [&](std::string_view body) { return chat(body).error(); };
  EXPECT_EQ(refused("{}")["param"], "messages");
  EXPECT_EQ(refused(R"({"messages": []})")["param"], "messages");
  EXPECT_EQ(refused(R"({"messages": [{"content": "x"}]})")["param"], "messages[0].role");
  EXPECT_EQ(refused(R"({"messages": [{"role": "user", "content": 5}]})")["param"], "messages[0].content");
  EXPECT_EQ(refused(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})")["param"],
            "messages[0].content");
  EXPECT_EQ(refused(with(R"(, "tools": [{"type": "function"}])"))["param"], "tools");
  EXPECT_EQ(refused(with(R"(, "tool_choice": "auto")"))["param"], "tool_choice");
  EXPECT_EQ(refused(with(R"(, "response_format": {"type": "json_object"})"))["param"], "response_format");
  EXPECT_EQ(refused(with(R"(, "top_logprobs": 2)"))["param"], "top_logprobs");
  EXPECT_EQ(refused(with(R"(, "max_tokens": 2000)"))["code"], "context_length_exceeded");
  const object too_many = refused(with(R"(, "max_completion_tokens": 2000)"));
  EXPECT_EQ(too_many.at("param"), "max_completion_tokens");
  EXPECT_THAT(std::string(too_many.at("message").as_string()),
              HasSubstr("max_completion_tokens can be at most"));
  const std::string long_message =
      R"({"messages": [{"role": "user", "content": ")" + std::string(2000, 'x') + R"("}]})";
  EXPECT_EQ(refused(long_message)["param"], "messages");
  EXPECT_EQ(refused(with(R"(, "parallel_tool_calls": "no")"))["param"], "parallel_tool_calls");
  EXPECT_EQ(refused(with(R"(, "modalities": ["text", "audio"])"))["param"], "modalities");
  EXPECT_EQ(refused(with(R"(, "verbosity": "low")"))["param"], "verbosity");
  const object thrown = refused(R"({"messages": [{"role": "tool", "content": "x"}]})");
  EXPECT_EQ(thrown.at("code"), "chat_template_error");
  EXPECT_THAT(std::string(thrown.at("message").as_string()), HasSubstr("no tools here"));
}

TEST_F(Chat, FieldsAtTheValueThatChangesNothingAreTaken) {
  for (const char* field :
       {R"("parallel_tool_calls": false)", R"("parallel_tool_calls": true)", R"("modalities": ["text"])",
        R"("verbosity": "medium")", R"("response_format": {"type": "text"})", R"("tools": [])",
        R"("tool_choice": "none")", R"("reasoning_effort": "high")", R"("typical_p": 1.0)",
        R"("mirostat": 0)"})
    EXPECT_EQ(chat(with(fmt::format(R"(, "max_tokens": 1, {})", field))).status, 200) << field;
}

TEST_F(HttpServerTest, WithoutATemplateConversationsAreRefused) {
  serve();
  const RawReply reply = RawClient(port()).post(kChat, with(""));
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.error()["code"], "no_chat_template");
}

}  // namespace
}  // namespace guildhall
