// POST /v1/completions without streaming: what comes back, and what the engine is asked.
#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using boost::json::array;
using boost::json::object;
using testing::ElementsAre;
using testing::HasSubstr;

class Completion : public HttpServerTest {
 protected:
  Completion() { serve(); }
};

TEST_F(Completion, AnswersInOpenAIsShape) {
  RawReply reply = complete(R"({"model": "org/tiny", "prompt": "hello", "max_tokens": 5, "seed": 7})");
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers["content-type"], "application/json");
  object body = reply.json();
  EXPECT_THAT(std::string(body["id"].as_string()), testing::StartsWith("cmpl-"));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_GT(body["created"].as_int64(), 1'600'000'000);
  EXPECT_EQ(body["model"], "org/tiny");
  EXPECT_TRUE(body["system_fingerprint"].is_null());
  object choice = body["choices"].at(0).as_object();
  EXPECT_EQ(choice,
            (object{{"index", 0}, {"text", "abcab"}, {"logprobs", nullptr}, {"finish_reason", "length"}}));
  EXPECT_EQ(body["usage"], (object{{"prompt_tokens", 3},
                                   {"completion_tokens", 5},
                                   {"total_tokens", 8},
                                   {"prompt_tokens_details", {{"cached_tokens", 0}}}}));

  EngineRequest request = engine_.requests().at(0);
  EXPECT_THAT(request.prompt_ids, ElementsAre(kHe, kLl, 'o'));
  EXPECT_EQ(request.seed, 7u);
  EXPECT_EQ(request.max_tokens, 5);
  EXPECT_THAT(request.stop_token_ids, ElementsAre(kEos));
  EXPECT_FALSE(request.num_logprobs || request.num_prompt_logprobs);
}

TEST_F(Completion, PromptsAndChoicesAreIndexedInOrder) {
  RawReply reply = complete(R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 2, "echo": true, "seed": 9})");
  array choices = reply.json()["choices"].as_array();
  ASSERT_EQ(choices.size(), 4u);
  const char* texts[] = {"aab", "aab", "bab", "bab"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i].at("index"), i);
    EXPECT_EQ(choices[i].at("text"), texts[i]);
  }
  EXPECT_EQ(reply.json()["usage"].at("prompt_tokens"), 2);
  EXPECT_EQ(reply.json()["usage"].at("completion_tokens"), 8);
  auto requests = engine_.requests();
  EXPECT_EQ(requests[0].seed, 9u);
  EXPECT_NE(requests[1].seed, 9u);
  EXPECT_EQ(requests[2].seed, 9u);  // a list of prompts draws as the prompts would alone
  EXPECT_EQ(requests[3].seed, requests[1].seed);
}

TEST_F(Completion, StopTokenEndsTheTextAndIsNotInIt) {
  engine_.set_reply({'a', 'b', kEos});
  object choice = complete(R"({"prompt": "x", "logprobs": 0})").json()["choices"].at(0).as_object();
  EXPECT_EQ(choice["text"], "ab");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["logprobs"].at("tokens"), (array{"a", "b", "</s>"}));
  engine_.set_reply({'a', 'b', '!'});
  choice = complete(R"({"prompt": "x", "stop_token_ids": [33]})").json()["choices"].at(0).as_object();
  EXPECT_EQ(choice["text"], "ab");
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST_F(Completion, StopStringEndsTheTextAndCancelsTheEngine) {
  RawReply reply = complete(R"({"prompt": "x", "stop": ["zz", "ca"], "max_tokens": 900})");
  object choice = reply.json()["choices"].at(0).as_object();
  EXPECT_EQ(choice["text"], "ab");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(reply.json()["usage"].at("completion_tokens"), 4);
}

TEST_F(Completion, StopStringCancelsAnEngineThatWouldGoOn) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "x", "stop": "STOP"})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  engine_.emit(1, tokens_event(byte_ids("go ST")));
  engine_.emit(1, tokens_event(byte_ids("OP and on")));
  object choice = client.read_reply().json()["choices"].at(0).as_object();
  EXPECT_EQ(choice["text"], "go ");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(engine_.wait_cancelled(1));
}

TEST_F(Completion, LogprobsListTokensWithOffsets) {
  engine_.set_reply({'a', 0xC3, 0xA9, kHe});  // "aéhe", é in two tokens
  object logprobs = complete(R"({"prompt": "x", "logprobs": 2, "max_tokens": 4})")
                        .json()["choices"]
                        .at(0)
                        .at("logprobs")
                        .as_object();
  EXPECT_EQ(logprobs["tokens"], (array{"a", "bytes:\\xc3", "bytes:\\xa9", "he"}));
  EXPECT_EQ(logprobs["token_logprobs"], (array{-0.5, -0.5, -0.5, -0.5}));
  EXPECT_EQ(logprobs["text_offset"], (array{0, 1, 1, 2}));
  EXPECT_EQ(logprobs["top_logprobs"].at(0), (object{{"Z", -0.25}, {"Y", -1.25}, {"a", -0.5}}));
}

TEST_F(Completion, EchoWithLogprobsScoresThePrompt) {
  RawReply reply = complete(R"({"prompt": "hello", "echo": true, "logprobs": 1, "max_tokens": 1})");
  object choice = reply.json()["choices"].at(0).as_object();
  EXPECT_EQ(choice["text"], "helloa");
  object logprobs = choice["logprobs"].as_object();
  EXPECT_EQ(logprobs["tokens"], (array{"he", "ll", "o", "a"}));
  EXPECT_EQ(logprobs["token_logprobs"], (array{nullptr, -0.5, -0.5, -0.5}));
  EXPECT_EQ(logprobs["text_offset"], (array{0, 2, 4, 5}));
  EXPECT_TRUE(logprobs["top_logprobs"].at(0).is_null());
  EXPECT_EQ(logprobs["top_logprobs"].at(1), (object{{"Z", -0.25}, {"ll", -0.5}}));
  EXPECT_EQ(engine_.requests()[0].num_prompt_logprobs, 1);
}

TEST_F(Completion, EchoAloneScoresThePromptOnly) {
  object choice = complete(R"({"prompt": [[258, 256, 111]], "echo": true, "logprobs": 0, "max_tokens": 0})")
                      .json()["choices"]
                      .at(0)
                      .as_object();
  EXPECT_EQ(choice["text"], "<s>heo");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["logprobs"].at("token_logprobs"), (array{nullptr, -0.5, -0.5}));
  EXPECT_EQ(choice["logprobs"].at("text_offset"), (array{0, 3, 5}));
}

TEST_F(Completion, ImpossibleTokensScoreAsOpenAIWritesThem) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "x", "logprobs": 0})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  EngineEvent event = tokens_event({'a'}, FinishReason::length);
  event.logprobs.push_back({{'a', -INFINITY}, {}});
  engine_.emit(1, std::move(event));
  object logprobs = client.read_reply().json()["choices"].at(0).at("logprobs").as_object();
  EXPECT_EQ(logprobs["token_logprobs"], (array{-9999.0}));
}

TEST_F(Completion, BadRequestsAreRefusedAndTheConnectionGoesOn) {
  RawClient client(port());
  RawReply reply = client.post(kCompletions, R"({"prompt": "a", "temperature": 3})");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.error()["type"], "invalid_request_error");
  EXPECT_EQ(reply.error()["param"], "temperature");
  EXPECT_EQ(client.post(kCompletions, R"({"prompt": )").error()["code"], "invalid_json");
  EXPECT_EQ(client.post(kCompletions, R"({"prompt": "a", "model": "b"})").status, 404);
  RawReply large =
      client.post(kCompletions, R"({"max_tokens": 16, "prompt": ")" + std::string(5000, 'x') + "\"}");
  EXPECT_EQ(large.status, 400);
  EXPECT_EQ(large.error()["code"], "context_length_exceeded");
  EXPECT_THAT(std::string(large.error()["message"].as_string()),
              HasSubstr("has 5000 tokens and max_tokens is 16"));
  EXPECT_EQ(client.post(kCompletions, R"({"prompt": "a", "colour": "red"})").status, 200);
  EXPECT_EQ(engine_.requests().size(), 1u);
}

TEST_F(Completion, EngineRefusalsKeepTheirKind) {
  engine_.refuse_after(0, {Code::resource_exhausted, "the queue holds 256 requests; try again later"});
  RawReply full = complete(R"({"prompt": "a"})");
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.headers["retry-after"], "1");
  EXPECT_EQ(full.error()["type"], "rate_limit_error");
  engine_.refuse_after(0, {Code::unavailable, "worker w0 is lost"});
  EXPECT_EQ(complete(R"({"prompt": "a"})").status, 503);
}

TEST_F(Completion, AllChoicesAreAdmittedOrNone) {
  engine_.hold();
  engine_.refuse_after(2, {Code::resource_exhausted, "full"});
  EXPECT_EQ(complete(R"({"prompt": "a", "n": 3})").status, 429);
  EXPECT_TRUE(engine_.wait_cancelled(2));
}

TEST_F(Completion, EngineErrorBecomesAnHttpError) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "a", "n": 2})"));
  ASSERT_TRUE(engine_.wait_submitted(2));
  EngineEvent event = tokens_event({'a'}, FinishReason::error);
  event.error = Status{Code::peer_lost, "worker=w1: lost"};
  engine_.emit(1, std::move(event));
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.error()["message"], "worker=w1: lost");
  EXPECT_TRUE(engine_.wait_cancelled(1));  // the other choice
  EXPECT_EQ(engine_.cancelled(), std::set<RequestId>{2});
}

TEST_F(Completion, ServerSideCancelIsToldAsUnavailable) {
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "a"})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  engine_.cancel(1);
  EXPECT_EQ(client.read_reply().status, 503);
}

TEST_F(Completion, ClientThatLeavesCancelsItsRequest) {
  engine_.hold();
  for (size_t round = 1; round <= 3; ++round) {
    RawClient client(port());
    client.send(post_bytes(kCompletions, R"({"prompt": "a"})"));
    ASSERT_TRUE(engine_.wait_submitted(round));
    if (round == 1) client.close();
    if (round == 2) client.reset();
    if (round == 3) client.shutdown_write();
    EXPECT_TRUE(engine_.wait_cancelled(round));
  }
}

}  // namespace
}  // namespace guildhall
