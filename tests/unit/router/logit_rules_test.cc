// logit_rules_test.cc: edits kept up token by token, and the whole way from logits to shares of tokens
// against what transformers' processors make of the same cases (make_sampling_cases.py).
#include "router/logit_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "kernels/sampling.h"

namespace guildhall {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int32_t kVocabulary = 100;

std::map<int32_t, LogitEdit> by_id(const LogitEdits& edits) {
  std::map<int32_t, LogitEdit> all;
  for (const LogitEdit& edit : edits.edits()) all[edit.id] = edit;
  EXPECT_EQ(all.size(), edits.edits().size()) << "an id is listed twice";
  return all;
}

TEST(LogitEdits, RepetitionIsOfPromptAndAnswer) {
  LogitEdits edits({.repetition_penalty = 1.2f}, std::vector<int32_t>{7, 3, 7}, 10, kVocabulary);
  EXPECT_THAT(edits.edits(), SizeIs(2));
  edits.add(5), edits.add(3);
  const auto all = by_id(edits);
  EXPECT_THAT(all, SizeIs(3));
  for (const auto& [id, edit] : all) {
    EXPECT_EQ(edit.repetition, 1.2f) << id;
    EXPECT_EQ(edit.penalty, 0) << id;
  }
}

TEST(LogitEdits, PresenceAndFrequencyAreOfTheAnswerOnly) {
  LogitEdits edits({.presence_penalty = 0.5f, .frequency_penalty = 0.25f}, std::vector<int32_t>{7, 3}, 10,
                   kVocabulary);
  EXPECT_FALSE(edits.any());
  for (const int32_t token : {3, 9, 3, 3}) edits.add(token);
  const auto all = by_id(edits);
  EXPECT_THAT(all, SizeIs(2));
  EXPECT_EQ(all.at(3).penalty, 1.25f);
  EXPECT_EQ(all.at(9).penalty, 0.75f);
}

TEST(LogitEdits, HeldTokensAreReleasedAfterMinTokensToTheirBias) {
  LogitEdits edits({.bias = {{4, 2.5f}}, .min_tokens = 2, .held_token_ids = {8, 4, 8, -5, 100}}, {}, 10,
                   kVocabulary);
  EXPECT_EQ(by_id(edits).at(4).bias, -kInf);
  EXPECT_EQ(by_id(edits).at(8).bias, -kInf);
  edits.add(1);
  EXPECT_EQ(by_id(edits).at(8).bias, -kInf);
  edits.add(1);
  EXPECT_EQ(by_id(edits).at(4).bias, 2.5f);
  EXPECT_EQ(by_id(edits).at(8).bias, 0);
}

TEST(LogitEdits, AllowedTokensAreBitsOfAMask) {
  const LogitEdits edits({.allowed_token_ids = {0, 31, 32, 99, 0}}, {}, 10, kVocabulary);
  EXPECT_TRUE(edits.any());
  EXPECT_THAT(edits.edits(), IsEmpty());
  EXPECT_THAT(edits.allowed_w(), ::testing::ElementsAre(0x80000001u, 1u, 0u, 1u << 3));
}

TEST(LogitEdits, ListsGrowBeyondWhatWasExpected) {
  LogitEdits edits({.presence_penalty = 1}, {}, 5, kVocabulary);
  for (int32_t token = kVocabulary - 1; token >= 0; --token) edits.add(token);
  EXPECT_THAT(by_id(edits), SizeIs(kVocabulary));
}

TEST(LogitRules, ThatCannotBeFollowedAreRefusedByName) {
  const auto refusal = [](const LogitRules& rules) {
    const auto checked = check_logit_rules(rules, kVocabulary);
    return checked.has_error() ? checked.error().message : "";
  };
  EXPECT_EQ(refusal({}), "");
  EXPECT_THAT(refusal({.repetition_penalty = 0}), HasSubstr("repetition_penalty must be above 0"));
  EXPECT_THAT(refusal({.bias = {{100, 1}}}), HasSubstr("logit_bias: token id 100 is outside [0, 100)"));
  EXPECT_THAT(refusal({.allowed_token_ids = {-1}}), HasSubstr("allowed_token_ids: token id -1"));
  EXPECT_THAT(refusal({.allowed_token_ids = {5, 6}, .min_tokens = 1, .held_token_ids = {6, 5}}),
              HasSubstr("min_tokens"));
  EXPECT_EQ(refusal({.allowed_token_ids = {5, 6}, .min_tokens = 1, .held_token_ids = {6}}), "");
}

// ---- the whole way, against transformers

struct Case {
  std::vector<float> logits;
  std::vector<int32_t> prompt, output;
  LogitRules rules;
  SamplingRule sampling;
  std::vector<float> edited, shares;
};

Case read_case(const json::object& from) {
  const auto number = [&](const char* name) { return from.at(name).to_number<float>(); };
  const auto ids = [&](const char* name) { return json::value_to<std::vector<int32_t>>(from.at(name)); };
  Case c{.logits = json::value_to<std::vector<float>>(from.at("logits")),
         .prompt = ids("prompt"),
         .output = ids("output"),
         .rules = {.repetition_penalty = number("repetition_penalty"),
                   .presence_penalty = number("presence_penalty"),
                   .frequency_penalty = number("frequency_penalty"),
                   .allowed_token_ids = ids("allowed_token_ids"),
                   .min_tokens = from.at("min_tokens").to_number<int32_t>(),
                   .held_token_ids = ids("held_token_ids")},
         .sampling = {.temperature = number("temperature"),
                      .top_p = number("top_p"),
                      .top_k = from.at("top_k").to_number<int32_t>(),
                      .min_p = number("min_p")},
         .shares = json::value_to<std::vector<float>>(from.at("shares"))};
  for (const auto& item : from.at("logit_bias").as_object())
    c.rules.bias.push_back({std::stoi(std::string(item.key())), item.value().to_number<float>()});
  for (const json::value& x : from.at("edited").as_array())
    c.edited.push_back(x.is_null() ? -kInf : x.to_number<float>());
  return c;
}

std::vector<float> edited_logits(const Case& c) {
  const auto size = static_cast<int64_t>(c.logits.size());
  LogitEdits edits(c.rules, c.prompt, 100, static_cast<int32_t>(size));
  for (const int32_t token : c.output) edits.add(token);
  std::vector<float> logits = c.logits;
  const bool masked = !edits.allowed_w().empty();
  const EditedRow row{.num_edits = static_cast<int64_t>(edits.edits().size()), .mask = masked ? 0 : -1};
  edit_logits_ref({&row, 1}, edits.edits(), {edits.allowed_w().data(), masked, mask_words(size)},
                  {logits.data(), 1, size});
  return logits;
}

TEST(SamplingOracle, EditsAndSharesAreTransformers) {
  std::ifstream in(GUILDHALL_SOURCE_DIR "/tests/unit/router/sampling_cases.json");
  std::stringstream text;
  text << in.rdbuf();
  const json::value cases = json::parse(text.str());
  ASSERT_THAT(cases.as_array(), SizeIs(120));
  for (size_t i = 0; i < cases.as_array().size(); ++i) {
    SCOPED_TRACE(testing::Message() << "case " << i);
    const Case c = read_case(cases.as_array()[i].as_object());
    const std::vector<float> logits = edited_logits(c);
    for (size_t v = 0; v < logits.size(); ++v) {
      if (std::isinf(c.edited[v]))
        EXPECT_EQ(logits[v], c.edited[v]) << v;
      else
        EXPECT_NEAR(logits[v], c.edited[v], 2e-5 + 1e-6 * std::abs(c.edited[v])) << v;
    }
    constexpr int kDraws = 2000;
    std::vector<double> share(logits.size());
    for (int d = 0; d < kDraws; ++d)
      share[static_cast<size_t>(sample_cpu(logits, c.sampling, (d + 0.5) / kDraws))] += 1.0 / kDraws;
    for (size_t v = 0; v < share.size(); ++v) {
      EXPECT_NEAR(share[v], c.shares[v], 1.1 / kDraws) << v;
      EXPECT_TRUE(c.shares[v] > 0 || share[v] == 0) << v << " cannot be drawn";
    }
  }
}

}  // namespace
}  // namespace guildhall
