#include "router/http/completions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "router/http/json_fields.h"
#include "tests/unit/http/tiny_tokenizer.h"

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ApiResult<CompletionCall> parse(std::string_view body) {
  CompletionRules rules{"tiny", 100, &tiny_tokenizer(), {kEos}};
  ApiResult<boost::json::object> fields = parse_json_body(body);
  if (!fields) return fields.error();
  return parse_completion(*fields, rules);
}

CompletionCall parsed(std::string_view body) {
  ApiResult<CompletionCall> call = parse(body);
  EXPECT_TRUE(call.has_value()) << body << " -> " << (call ? "" : call.error().message);
  return call ? *call : CompletionCall{};
}

TEST(Completions, DefaultsAreOpenAIs) {
  CompletionCall call = parsed(R"({"prompt": "hello"})");
  ASSERT_EQ(call.prompts.size(), 1u);
  EXPECT_THAT(call.prompts[0].ids, ElementsAre(kHe, kLl, 'o'));
  EXPECT_EQ(call.max_tokens, 16);
  EXPECT_EQ(call.num_choices, 1);
  EXPECT_EQ(call.sampling.temperature, 1);
  EXPECT_EQ(call.sampling.top_p, 1);
  EXPECT_EQ(call.sampling.top_k, 0);
  EXPECT_THAT(call.stop_token_ids, ElementsAre(kEos));
  EXPECT_FALSE(call.echo || call.stream || call.num_logprobs);
}

TEST(Completions, PromptTakesFourShapes) {
  EXPECT_THAT(parsed(R"({"prompt": [1, 2]})").prompts[0].ids, ElementsAre(1, 2));
  CompletionCall texts = parsed(R"({"prompt": ["a", "b"]})");
  ASSERT_EQ(texts.prompts.size(), 2u);
  EXPECT_EQ(texts.prompts[1].text, "b");
  CompletionCall ids = parsed(R"({"prompt": [[1], [2, 3]]})");
  ASSERT_EQ(ids.prompts.size(), 2u);
  EXPECT_THAT(ids.prompts[1].ids, ElementsAre(2, 3));
  EXPECT_FALSE(ids.prompts[1].text.has_value());
}

TEST(Completions, RoutedExpertsAreBoundedAndNeedLayersWithExperts) {
  const auto refusal = [](std::string_view body, RoutingShape routing) -> ApiError {
    CompletionRules rules{"tiny", 1 << 20, &tiny_tokenizer(), {kEos}};
    rules.routing = routing;
    const ApiResult<CompletionCall> call = parse_completion(*parse_json_body(body), rules);
    return call ? ApiError{200} : call.error();
  };
  const RoutingShape large{.num_layers = 58, .top_k = 8};  // 4519 tokens' experts fit
  EXPECT_EQ(refusal(R"({"prompt": "a", "routed_experts": true})", {}).code, "unsupported_parameter");
  EXPECT_EQ(refusal(R"({"prompt": "a", "routed_experts": false})", {}).http_status, 200);
  EXPECT_EQ(refusal(R"({"prompt": "a", "routed_experts": 1})", large).code, "invalid_value");
  EXPECT_EQ(refusal(R"({"prompt": "a", "routed_experts": true, "max_tokens": 4519})", large).http_status,
            200);
  EXPECT_THAT(refusal(R"({"prompt": "a", "routed_experts": true, "max_tokens": 4520})", large).message,
              HasSubstr("max_tokens can be at most 4519 here"));
  EXPECT_THAT(
      refusal(R"({"prompt": "aaa", "routed_experts": true, "n": 2, "max_tokens": 2259, "echo": true})", large)
          .message,
      HasSubstr("max_tokens can be at most 2258 here"));
  EXPECT_EQ(refusal(R"({"prompt": "a", "max_tokens": 9000})", large).http_status, 200);
}

TEST(Completions, EveryFieldIsRead) {
  CompletionCall call =
      parsed(R"({"model": "tiny", "prompt": "a", "max_tokens": 7, "temperature": 0, "top_p": 0.5,
    "top_k": 3, "seed": -1, "stop": ["x", "y"], "n": 3, "best_of": 3, "stream": true,
    "stream_options": {"include_usage": true}, "echo": true, "logprobs": 2, "stop_token_ids": [5], "user": "me", "cache_salt": "team a"})");
  EXPECT_EQ(call.max_tokens, 7);
  EXPECT_EQ(call.sampling.temperature, 0);
  EXPECT_EQ(call.sampling.top_p, 0.5f);
  EXPECT_EQ(call.sampling.top_k, 3);
  EXPECT_EQ(call.seed, ~uint64_t{0});
  EXPECT_THAT(call.stops, ElementsAre("x", "y"));
  EXPECT_EQ(call.num_choices, 3);
  EXPECT_TRUE(call.stream && call.include_usage && call.echo);
  EXPECT_EQ(call.cache_salt, "team a");
  EXPECT_EQ(call.num_logprobs, 2);
  EXPECT_THAT(call.stop_token_ids, ElementsAre(kEos, 5));
}

TEST(Completions, FieldsOfEditsAreRead) {
  const CompletionCall call =
      parsed(R"({"prompt": "a", "min_p": 0.25, "repetition_penalty": 1.25, "presence_penalty": -2,
    "frequency_penalty": 0.5, "logit_bias": {"5": -100, "259": 0.5}, "allowed_token_ids": [5, 6], "min_tokens": 3,
    "stop_token_ids": [7], "ignore_eos": true})");
  EXPECT_EQ(call.sampling.min_p, 0.25f);
  EXPECT_EQ(call.logit_rules.repetition_penalty, 1.25f);
  EXPECT_EQ(call.logit_rules.presence_penalty, -2);
  EXPECT_EQ(call.logit_rules.frequency_penalty, 0.5f);
  ASSERT_EQ(call.logit_rules.bias.size(), 2u);
  EXPECT_EQ(call.logit_rules.bias[1].id, 259);
  EXPECT_EQ(call.logit_rules.bias[1].bias, 0.5f);
  EXPECT_THAT(call.logit_rules.allowed_token_ids, ElementsAre(5, 6));
  EXPECT_EQ(call.logit_rules.min_tokens, 3);
  // What the first three may not be, although eos ends nothing here.
  EXPECT_THAT(call.logit_rules.held_token_ids, ElementsAre(kEos, 7));
  EXPECT_THAT(call.stop_token_ids, ElementsAre(7));
}

TEST(Completions, ListsHaveALargestLength) {
  std::string biases, ids;
  for (int i = 0; i < 65; ++i) ids += (i > 0 ? "," : "") + std::to_string(i);
  const auto stops = parse(R"({"prompt": "a", "stop_token_ids": [)" + ids + "]}");
  ASSERT_FALSE(stops.has_value());
  EXPECT_THAT(stops.error().message, HasSubstr("has 65 ids; give at most 64"));
  for (int i = 0; i < 1025; ++i) biases += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":1";
  const auto bias = parse(R"({"prompt": "a", "logit_bias": {)" + biases + "}}");
  ASSERT_FALSE(bias.has_value());
  EXPECT_THAT(bias.error().message, HasSubstr("has 1025 tokens; give at most 1024"));
}

TEST(Completions, ValuesAtTheEdgesAreTaken) {
  EXPECT_EQ(parsed(R"({"prompt": "a", "max_tokens": 99})").max_tokens, 99);
  EXPECT_EQ(parsed(R"({"prompt": "a", "max_tokens": 0, "echo": true})").max_tokens, 0);
  EXPECT_EQ(parsed(R"({"prompt": "a", "top_k": -1})").sampling.top_k, 0);
  EXPECT_EQ(parsed(R"({"prompt": "a", "temperature": 2, "top_p": 1, "logprobs": 20})").num_logprobs, 20);
  EXPECT_GT(parsed(R"({"prompt": "a", "top_p": 1e-60})").sampling.top_p, 0);
  EXPECT_EQ(parsed(R"({"prompt": "a", "max_tokens": 5.0})").max_tokens, 5);
  EXPECT_EQ(parsed(R"({"prompt": "a", "seed": 18446744073709551615})").seed, ~uint64_t{0});
  EXPECT_TRUE(parsed(R"({"prompt": "a", "ignore_eos": true})").stop_token_ids.empty());
  EXPECT_EQ(parsed(R"({"prompt": "a", "stop": "end"})").stops.size(), 1u);
}

TEST(Completions, NullMeansAbsent) {
  CompletionCall call =
      parsed(R"({"prompt": "a", "max_tokens": null, "stop": null, "seed": null, "logprobs": null,
    "suffix": null, "logit_bias": null, "tools": null, "stream_options": null, "best_of": null, "model": null})");
  EXPECT_EQ(call.max_tokens, 16);
}

TEST(Completions, UnsupportedFieldsPassAtTheirNeutralValue) {
  parsed(R"({"prompt": "a", "suffix": "", "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0,
    "response_format": {"type": "text"}, "tools": [], "repetition_penalty": 1, "min_p": 0, "best_of": 1})");
}

TEST(Completions, WithoutASeedEveryCallDiffers) {
  EXPECT_NE(parsed(R"({"prompt": "a"})").seed, parsed(R"({"prompt": "a"})").seed);
}

TEST(Completions, UnknownFieldsAreNamed) {
  auto body = parse_json_body(R"({"prompt": "a", "suffix": null, "colour": 1, "ba\nd": 2})");
  EXPECT_THAT(unknown_completion_fields(*body), ElementsAre("colour", "ba?d"));
}

struct Bad {
  const char* body;
  const char* param;
  const char* code;
  const char* message;  // a part of it
};

class BadCompletion : public testing::TestWithParam<Bad> {};

TEST_P(BadCompletion, IsRefusedByName) {
  ApiResult<CompletionCall> call = parse(GetParam().body);
  ASSERT_FALSE(call.has_value()) << GetParam().body;
  EXPECT_EQ(call.error().param, GetParam().param);
  EXPECT_EQ(call.error().code, GetParam().code);
  EXPECT_THAT(call.error().message, HasSubstr(GetParam().message));
  EXPECT_EQ(call.error().http_status, call.error().code == "model_not_found" ? 404 : 400);
}

const Bad kBad[] = {
    {R"({"prompt": "a)", "", "invalid_json", "at byte 13 (line 1, column 14); the body ends too early"},
    {"{\"prompt\":\n  oops}", "", "invalid_json", "line 2"},
    {R"({"prompt": "a"} x)", "", "invalid_json", "extra data"},
    {"", "", "invalid_json", "ends too early"},
    {"[1]", "", "invalid_json", "must be a JSON object"},
    {"{\"prompt\": \"\xC3\x28\"}", "", "invalid_json", "at byte"},
    {"{}", "prompt", "missing_field", "prompt is missing"},
    {R"({"prompt": 5})", "prompt", "invalid_value", "must be a string, a list"},
    {R"({"prompt": []})", "prompt", "invalid_value", "empty list"},
    {R"({"prompt": ""})", "prompt", "invalid_value", "prompt is empty"},
    {R"({"prompt": ["a", ""]})", "prompt", "invalid_value", "prompt 1 is empty"},
    {R"({"prompt": [[1], []]})", "prompt", "invalid_value", "prompt 1 is empty"},
    {R"({"prompt": ["a", 1]})", "prompt", "invalid_value", "must be a string, a list"},
    {R"({"prompt": [1, "a"]})", "prompt", "invalid_value", "item 1 is not one"},
    {R"({"prompt": [1, 260]})", "prompt", "invalid_value",
     "item 1 is 260, outside the vocabulary; token ids go from 0 to 259"},
    {R"({"prompt": [-1]})", "prompt", "invalid_value", "outside the vocabulary"},
    {R"({"prompt": [1.5]})", "prompt", "invalid_value", "whole numbers"},
    {R"({"prompt": [99999999999999999999]})", "prompt", "invalid_value", "whole numbers"},
    {R"({"prompt": "a", "model": "other"})", "model", "model_not_found", "it serves tiny"},
    {R"({"prompt": "a", "model": 7})", "model", "invalid_value", "must be a string"},
    {R"({"prompt": "a", "max_tokens": 0})", "max_tokens", "invalid_value", "unless echo"},
    {R"({"prompt": "a", "max_tokens": -1})", "max_tokens", "invalid_value", "from 0 to"},
    {R"({"prompt": "a", "max_tokens": "5"})", "max_tokens", "invalid_value", "whole number"},
    {R"({"prompt": "abc", "max_tokens": 98})", "max_tokens", "context_length_exceeded",
     "has 3 tokens and max_tokens is 98, but this model's context is 100 tokens: max_tokens can be at most "
     "97"},
    {R"({"prompt": "a", "temperature": 2.1})", "temperature", "invalid_value", "from 0 to 2"},
    {R"({"prompt": "a", "temperature": -0.1})", "temperature", "invalid_value", "from 0 to 2"},
    {R"({"prompt": "a", "temperature": 1e999})", "temperature", "invalid_value", "from 0 to 2"},
    {R"({"prompt": "a", "temperature": "hot"})", "temperature", "invalid_value", "must be a number"},
    {R"({"prompt": "a", "top_p": 0})", "top_p", "invalid_value", "from 0 (not itself) to 1"},
    {R"({"prompt": "a", "top_p": 1.01})", "top_p", "invalid_value", "to 1"},
    {R"({"prompt": "a", "top_k": -2})", "top_k", "invalid_value", "from -1"},
    {R"({"prompt": "a", "top_k": 1.5})", "top_k", "invalid_value", "whole number"},
    {R"({"prompt": "a", "seed": 1.5})", "seed", "invalid_value", "whole number"},
    {R"({"prompt": "a", "seed": 1e30})", "seed", "invalid_value", "64 bits"},
    {R"({"prompt": "a", "n": 0})", "n", "invalid_value", "from 1 to 128"},
    {R"({"prompt": "a", "n": 129})", "n", "invalid_value", "from 1 to 128"},
    {R"({"prompt": ["a","b","c","d","e","f","g","h","i"], "n": 128})", "n", "invalid_value", "at most 1024"},
    {R"({"prompt": "a", "n": 3, "best_of": 2})", "best_of", "invalid_value", "from n (3) to 128, not 2"},
    {R"({"prompt": "a", "best_of": 2, "stream": true})", "best_of", "invalid_value",
     "must be n (1) with stream"},
    {R"({"prompt": ["a","b","c","d","e","f","g","h","i"], "best_of": 128})", "best_of", "invalid_value",
     "at most 1024"},
    {R"({"prompt": "a", "prompt_logprobs": 21})", "prompt_logprobs", "invalid_value", "from 0 to 20, not 21"},
    {R"({"prompt": "a", "prompt_logprobs": 1, "stream": true})", "prompt_logprobs", "invalid_value",
     "whole answers only"},
    {R"({"prompt": "a", "return_token_ids": 1})", "return_token_ids", "invalid_value",
     "true or false, not 1"},
    {R"({"prompt": "a", "request_id": ""})", "request_id", "invalid_value", "1 to 128 printable"},
    {R"({"prompt": "a", "logprobs": 21})", "logprobs", "invalid_value", "from 0 to 20"},
    {R"({"prompt": "a", "logprobs": true})", "logprobs", "invalid_value", "whole number"},
    {R"({"prompt": "a", "stop": ""})", "stop", "invalid_value", "empty string"},
    {R"({"prompt": "a", "stop": 3})", "stop", "invalid_value", "string or a list"},
    {R"({"prompt": "a", "stop": ["a", 3]})", "stop", "invalid_value", "string or a list"},
    {R"({"prompt": "a", "stop": [1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]})", "stop", "invalid_value",
     "at most 16"},
    {R"({"prompt": "a", "stop_token_ids": [260]})", "stop_token_ids", "invalid_value",
     "outside the vocabulary"},
    {R"({"prompt": "a", "stop_token_ids": 3})", "stop_token_ids", "invalid_value", "array of token ids"},
    {R"({"prompt": "a", "stream": "yes"})", "stream", "invalid_value", "true or false"},
    {R"({"prompt": "a", "stream_options": {}})", "stream_options", "invalid_value", "needs stream"},
    {R"({"prompt": "a", "stream": true, "stream_options": 1})", "stream_options", "invalid_value", "object"},
    {R"({"prompt": "a", "suffix": "b"})", "suffix", "unsupported_parameter", "put the text into the prompt"},
    {R"({"prompt": "a", "min_p": 1.5})", "min_p", "invalid_value", "must be a number from 0 to 1, not 1.5E0"},
    {R"({"prompt": "a", "presence_penalty": 2.5})", "presence_penalty", "invalid_value",
     "from -2 to 2, not 2.5E0"},
    {R"({"prompt": "a", "frequency_penalty": -3})", "frequency_penalty", "invalid_value",
     "from -2 to 2, not -3"},
    {R"({"prompt": "a", "repetition_penalty": 0})", "repetition_penalty", "invalid_value",
     "from 0 (not itself) to 100, not 0"},
    {R"({"prompt": "a", "logit_bias": [5]})", "logit_bias", "invalid_value", "must be an object"},
    {R"({"prompt": "a", "logit_bias": {"x5": 1}})", "logit_bias", "invalid_value",
     "has the key \"x5\"; keys are token ids from 0 to 259"},
    {R"({"prompt": "a", "logit_bias": {"05": 1}})", "logit_bias", "invalid_value", "has the key \"05\""},
    {R"({"prompt": "a", "logit_bias": {"260": 1}})", "logit_bias", "invalid_value", "from 0 to 259"},
    {R"({"prompt": "a", "logit_bias": {"5": 101}})", "logit_bias", "invalid_value",
     "of token 5 must be a number from -100 to 100, not 101"},
    {R"({"prompt": "a", "logit_bias": {"5": "1"}})", "logit_bias", "invalid_value", "of token 5 must be"},
    {R"({"prompt": "a", "allowed_token_ids": []})", "allowed_token_ids", "invalid_value",
     "has 0 ids; give from 1 to 260"},
    {R"({"prompt": "a", "allowed_token_ids": [260]})", "allowed_token_ids", "invalid_value",
     "outside the vocabulary"},
    {R"({"prompt": "a", "min_tokens": -1})", "min_tokens", "invalid_value", "not -1"},
    {R"({"prompt": "a", "min_tokens": 6, "max_tokens": 5})", "min_tokens", "invalid_value",
     "from 0 to max_tokens (5), not 6"},
    {R"({"prompt": "a", "min_tokens": 2, "stop_token_ids": [7], "allowed_token_ids": [7, 259]})",
     "allowed_token_ids", "invalid_value", "min_tokens (2) allows none"},
    {R"({"prompt": "a", "response_format": {"type": "json_object"}})", "response_format",
     "unsupported_parameter", "text"},
    {R"({"prompt": "a", "tools": [{}]})", "tools", "unsupported_parameter", "not supported"},
};
INSTANTIATE_TEST_SUITE_P(Fields, BadCompletion, testing::ValuesIn(kBad));

TEST(Completions, PromptThatFillsTheContextNamesTheLargest) {
  std::string body = R"({"prompt": ")" + std::string(100, 'a') + R"("})";
  ApiResult<CompletionCall> call = parse(body);
  ASSERT_FALSE(call.has_value());
  EXPECT_EQ(call.error().code, "context_length_exceeded");
  EXPECT_EQ(call.error().param, "prompt");
  EXPECT_THAT(call.error().message, HasSubstr("the largest prompt that works is 99 tokens"));
}

TEST(JsonBody, NestingIsBounded) {
  EXPECT_TRUE(parse_json_body("{\"a\":" + std::string(60, '[') + std::string(60, ']') + "}").has_value());
  ApiResult<boost::json::object> deep = parse_json_body("{\"a\":" + std::string(100'000, '['));
  ASSERT_FALSE(deep.has_value());
  EXPECT_THAT(deep.error().message, HasSubstr("at most 64 levels"));
}

TEST(ApiErrors, StatusCodesBecomeHttpOnes) {
  EXPECT_EQ(to_api_error({Code::invalid_argument, "x"}).http_status, 400);
  EXPECT_EQ(to_api_error({Code::resource_exhausted, "x"}).http_status, 429);
  EXPECT_EQ(to_api_error({Code::unavailable, "x"}).http_status, 503);
  EXPECT_EQ(to_api_error({Code::peer_lost, "x"}).http_status, 503);
  EXPECT_EQ(to_api_error({Code::internal, "x"}).http_status, 500);
  EXPECT_EQ(
      error_body({429, "full", "", "resource_exhausted"}),
      R"({"error":{"message":"full","type":"rate_limit_error","param":null,"code":"resource_exhausted"}})");
}

}  // namespace
}  // namespace guildhall
