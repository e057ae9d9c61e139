// server_fields_test.cc: fields beyond OpenAI's over HTTP, for completions and conversations: what they ask
// of the engine, and what they add to the answer.
#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using boost::json::array;
using boost::json::object;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::string_view kChat = "/v1/chat/completions";

class Fields : public HttpServerTest {
 protected:
  Fields() {
    template_ = ChatTemplate::parse("{% for m in messages %}{{ m.content }}{% endfor %}", "").value();
    serve(template_.get());
  }
  RawReply chat(std::string_view more) {
    return RawClient(port()).post(
        kChat, R"({"messages": [{"role": "user", "content": "hello"}], )" + std::string(more) + "}");
  }
  // Emits a whole answer of request `id`: its tokens, each with this log-probability.
  void answer(RequestId id, std::string_view text, float logprob) {
    EngineEvent event = tokens_event(byte_ids(text), FinishReason::length);
    for (const int32_t token : event.tokens) event.logprobs.push_back({.chosen = {token, logprob}});
    engine_.emit(id, std::move(event));
  }

  std::unique_ptr<ChatTemplate> template_;
};

object first_choice(const RawReply& reply) { return reply.json().at("choices").at(0).as_object(); }

TEST_F(Fields, RulesForLogitsReachTheEngineFromBothKinds) {
  constexpr std::string_view kRules =
      R"("max_tokens": 4, "min_p": 0.5, "repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": -1,
      "logit_bias": {"7": 3}, "allowed_token_ids": [7, 97], "min_tokens": 2, "ignore_eos": true)";
  ASSERT_EQ(complete(R"({"prompt": "x", )" + std::string(kRules) + "}").status, 200);
  ASSERT_EQ(chat(kRules).status, 200);
  for (const EngineRequest& request : engine_.requests()) {
    EXPECT_EQ(request.sampling.min_p, 0.5f);
    EXPECT_EQ(request.logit_rules.repetition_penalty, 1.5f);
    EXPECT_EQ(request.logit_rules.presence_penalty, 1);
    EXPECT_EQ(request.logit_rules.frequency_penalty, -1);
    ASSERT_EQ(request.logit_rules.bias.size(), 1u);
    EXPECT_EQ(request.logit_rules.bias[0].id, 7);
    EXPECT_THAT(request.logit_rules.allowed_token_ids, ElementsAre(7, 97));
    EXPECT_EQ(request.logit_rules.min_tokens, 2);
    EXPECT_THAT(request.logit_rules.held_token_ids, ElementsAre(kEos));
    EXPECT_TRUE(request.stop_token_ids.empty());
  }
}

TEST_F(Fields, BestOfAnswersTheLikeliestPerToken) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": ["x", "y"], "n": 2, "best_of": 3})"));
  ASSERT_TRUE(engine_.wait_submitted(6));
  answer(1, "bad", -3), answer(2, "a long good one", -0.5f), answer(3, "ok", -1);
  answer(4, "p", -1), answer(5, "q", -2), answer(6, "r", -1);  // ties: the first
  const RawReply reply = client.read_reply();
  ASSERT_EQ(reply.status, 200) << reply.body;
  const array choices = reply.json()["choices"].as_array();
  ASSERT_EQ(choices.size(), 4u);
  const char* texts[] = {"a long good one", "ok", "p", "r"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i].at("index"), i);
    EXPECT_EQ(choices[i].at("text"), texts[i]);
    EXPECT_TRUE(choices[i].at("logprobs").is_null());
  }
  EXPECT_EQ(reply.json()["usage"].at("completion_tokens"), 3 + 15 + 2 + 3);  // all that were drawn
  EXPECT_EQ(engine_.requests()[0].num_logprobs, 0);
}

TEST_F(Fields, PromptLogprobsAreOfTokensByTheirIds) {
  RawReply reply = complete(R"({"prompt": "hello", "prompt_logprobs": 1, "max_tokens": 1, "n": 2})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const array expected{nullptr,
                       object{{"257", {{"logprob", -0.5}, {"rank", 1}, {"decoded_token", "ll"}}},
                              {"90", {{"logprob", -0.25}, {"rank", 1}, {"decoded_token", "Z"}}}},
                       object{{"111", {{"logprob", -0.5}, {"rank", 1}, {"decoded_token", "o"}}},
                              {"90", {{"logprob", -0.25}, {"rank", 1}, {"decoded_token", "Z"}}}}};
  const array choices = reply.json()["choices"].as_array();
  for (const auto& choice : choices) EXPECT_EQ(choice.at("prompt_logprobs"), expected);
  EXPECT_EQ(first_choice(reply).at("text"), "a");
  EXPECT_EQ(engine_.requests()[0].num_prompt_logprobs, 1);
  EXPECT_FALSE(engine_.requests()[1].num_prompt_logprobs);  // the prompt is scored once
  EXPECT_EQ(chat(R"("prompt_logprobs": 1, "max_tokens": 1)").json()["prompt_logprobs"], expected);
  EXPECT_EQ(chat(R"("prompt_logprobs": 1, "stream": true)").error()["param"], "prompt_logprobs");
}

TEST_F(Fields, EchoAndPromptLogprobsKeepTheirOwnAlternatives) {
  const object choice = first_choice(
      complete(R"({"prompt": "hello", "prompt_logprobs": 2, "echo": true, "logprobs": 1, "max_tokens": 1})"));
  EXPECT_EQ(choice.at("logprobs").at("top_logprobs").at(1), (object{{"Z", -0.25}, {"ll", -0.5}}));
  EXPECT_EQ(choice.at("prompt_logprobs").at(1).as_object().size(), 3u);
}

TEST_F(Fields, TokenIdsOfPromptAndAnswerAreReturned) {
  engine_.set_reply({'a', 'b', kEos});
  const RawReply whole = complete(R"({"prompt": "hello", "return_token_ids": true})");
  EXPECT_EQ(first_choice(whole).at("token_ids"), (array{97, 98, kEos}));
  EXPECT_EQ(first_choice(whole).at("prompt_token_ids"), (array{kHe, kLl, 'o'}));
  const RawReply talk = chat(R"("return_token_ids": true)");
  EXPECT_EQ(first_choice(talk).at("token_ids"), (array{97, 98, kEos}));
  EXPECT_EQ(talk.json()["prompt_token_ids"], (array{kHe, kLl, 'o'}));
}

TEST_F(Fields, StreamsBringTheIdsOfEachPiece) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions,
                         R"({"prompt": "hello", "return_token_ids": true, "stream": true, "stop": "bcd"})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  array ids;
  std::string text;
  engine_.emit(1, tokens_event({'a', 'b'}));
  client.read_head();
  for (int pieces = 0; auto event = client.read_event();) {
    if (*event == "data: [DONE]") break;
    const object choice = object(boost::json::parse(event->substr(6)).at("choices").at(0).as_object());
    EXPECT_EQ(choice.contains("prompt_token_ids"), pieces == 0);
    text += std::string(choice.at("text").as_string());
    for (const auto& id : choice.at("token_ids").as_array()) ids.push_back(id);
    if (pieces++ == 0) engine_.emit(1, tokens_event({'c', 'd', 'e'}));
  }
  EXPECT_EQ(text, "a");
  EXPECT_EQ(ids, (array{'a', 'b', 'c', 'd'}));  // what came until the stop was complete
}

// Layers of two experts each, as fake_experts() has them.
array experts_of(std::initializer_list<int> tokens) {
  array list;
  for (const int t : tokens) list.push_back(array{array{t, t + 1}, array{t + 2, t + 3}});
  return list;
}

TEST_F(Fields, RoutedExpertsOfEachTokenAreReturned) {
  const object choice =
      first_choice(complete(R"({"prompt": "hello", "max_tokens": 2, "routed_experts": true})"));
  EXPECT_EQ(choice.at("routed_experts"), experts_of({'a', 'b'}));
  EXPECT_FALSE(choice.contains("prompt_routed_experts"));
  EXPECT_FALSE(engine_.requests().back().prompt_routed_experts);
  EXPECT_FALSE(first_choice(complete(R"({"prompt": "hello"})")).contains("routed_experts"));
  EXPECT_FALSE(engine_.requests().back().routed_experts);
  const RawReply talk = chat(R"("max_tokens": 2, "return_routed_experts": true, "prompt_logprobs": 0)");
  EXPECT_EQ(first_choice(talk).at("routed_experts"), experts_of({'a', 'b'}));
  EXPECT_EQ(talk.json()["prompt_routed_experts"], experts_of({kHe, kLl, 'o'}));
}

TEST_F(Fields, RoutedExpertsOfAPromptComeOnce) {
  const RawReply reply = complete(
      R"({"prompt": ["hello", "a"], "max_tokens": 1, "n": 2, "echo": true, "routed_experts": true})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const array choices = reply.json()["choices"].as_array();
  EXPECT_EQ(choices[0].at("prompt_routed_experts"), experts_of({kHe, kLl, 'o'}));
  EXPECT_FALSE(choices[1].as_object().contains("prompt_routed_experts"));
  EXPECT_EQ(choices[2].at("prompt_routed_experts"), experts_of({'a'}));
  for (const auto& choice : choices) EXPECT_EQ(choice.at("routed_experts"), experts_of({'a'}));
}

TEST_F(Fields, TheBestOfSeveralHasItsOwnExpertsAndThePrompts) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions,
                         R"({"prompt": "x", "best_of": 2, "routed_experts": true, "prompt_logprobs": 0})"));
  ASSERT_TRUE(engine_.wait_submitted(2));
  for (const RequestId id : {1, 2}) {
    EngineEvent event = tokens_event({id == 1 ? 'p' : 'q'}, FinishReason::length);
    event.logprobs.push_back({.chosen = {event.tokens[0], id == 1 ? -2.0f : -1.0f}});
    event.routed_experts = fake_experts(event.tokens);
    if (id == 1) event.prompt_routed_experts = fake_experts({'x'});
    engine_.emit(id, std::move(event));
  }
  const object choice = first_choice(client.read_reply());
  EXPECT_EQ(choice.at("text"), "q");
  EXPECT_EQ(choice.at("routed_experts"), experts_of({'q'}));
  EXPECT_EQ(choice.at("prompt_routed_experts"), experts_of({'x'}));
}

TEST_F(Fields, StreamsBringTheExpertsOfEachPieceAndThePromptsWithTheFirst) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions,
                         R"({"prompt": "hello", "echo": true, "routed_experts": true, "stream": true})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  EngineEvent cached, computed = tokens_event({'a'}), last = tokens_event({'b', 'c'}, FinishReason::length);
  cached.prompt_routed_experts.assign(4, kNotRouted);
  computed.prompt_routed_experts = fake_experts({kLl, 'o'});
  computed.routed_experts = fake_experts({'a'}), last.routed_experts = fake_experts({'b', 'c'});
  engine_.emit(1, std::move(cached));  // a prompt in two chunks
  engine_.emit(1, std::move(computed));
  client.read_head();
  array pieces;
  while (auto event = client.read_event()) {
    if (*event == "data: [DONE]") break;
    pieces.push_back(boost::json::parse(event->substr(6)).at("choices").at(0));
    if (pieces.size() == 1) engine_.emit(1, std::move(last));
  }
  ASSERT_EQ(pieces.size(), 2u);
  array of_prompt{nullptr};
  for (const auto& token : experts_of({kLl, 'o'})) of_prompt.push_back(token);
  EXPECT_EQ(pieces[0].at("text"), "helloa");
  EXPECT_EQ(pieces[0].at("prompt_routed_experts"), of_prompt);
  EXPECT_EQ(pieces[0].at("routed_experts"), experts_of({'a'}));
  EXPECT_FALSE(pieces[1].as_object().contains("prompt_routed_experts"));
  EXPECT_EQ(pieces[1].at("routed_experts"), experts_of({'b', 'c'}));

  RawClient talk(port());
  talk.send(post_bytes(
      kChat,
      R"({"messages": [{"role": "user", "content": "hello"}], "routed_experts": true, "stream": true})"));
  ASSERT_TRUE(engine_.wait_submitted(2));
  EngineEvent spoken = tokens_event({'a'}, FinishReason::length);
  spoken.routed_experts = fake_experts({'a'});
  engine_.emit(2, std::move(spoken));
  talk.read_head();
  talk.read_event();  // the role
  const auto text = boost::json::parse(talk.read_event()->substr(6));
  EXPECT_EQ(text.at("choices").at(0).at("routed_experts"), experts_of({'a'}));
}

TEST_F(Fields, StopsMayBePartOfTheText) {
  engine_.set_reply(byte_ids("one two three"));
  const object choice =
      first_choice(complete(R"({"prompt": "x", "stop": ["two"], "include_stop_str_in_output": true})"));
  EXPECT_EQ(choice.at("text"), "one two");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  const object by_id = first_choice(
      complete(R"({"prompt": "x", "stop_token_ids": [116], "include_stop_str_in_output": true})"));
  EXPECT_EQ(by_id.at("text"), "one t");
}

TEST_F(Fields, StopStringsWaitForMinTokens) {
  engine_.set_reply(byte_ids("abcabc"));
  const object choice = first_choice(complete(R"({"prompt": "x", "stop": "bc", "min_tokens": 3})"));
  EXPECT_EQ(choice.at("text"), "abca");
}

TEST_F(Fields, ARequestIdNamesTheAnswer) {
  RawReply reply = complete(R"({"prompt": "x", "request_id": "job-7"})");
  EXPECT_EQ(reply.headers["x-request-id"], "job-7");
  EXPECT_EQ(reply.json()["id"], "cmpl-job-7");
  reply = chat(R"("request_id": "job-8")");
  EXPECT_EQ(reply.headers["x-request-id"], "job-8");
  EXPECT_EQ(reply.json()["id"], "chatcmpl-job-8");
  reply = complete(R"({"prompt": "x", "request_id": "a b"})");
  EXPECT_EQ(reply.error()["param"], "request_id");
  EXPECT_THAT(reply.headers["x-request-id"], StartsWith("req-"));
}

TEST_F(Fields, WhatAConversationHasNotIsRefused) {
  EXPECT_EQ(chat(R"("echo": true)").error()["param"], "echo");
  EXPECT_EQ(chat(R"("best_of": 2)").error()["param"], "best_of");
  EXPECT_EQ(chat(R"("echo": false, "best_of": 2, "n": 2)").status, 200);
}

}  // namespace
}  // namespace guildhall
