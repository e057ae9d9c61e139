// pipeline_test.cc: loading, its errors, and what no oracle case shows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <numeric>

#include "model/tokenizer/bpe.h"
#include "model/tokenizer/tokenizer.h"

namespace guildhall {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;

// A byte-level tokenizer of a few letters: a=0 b=1 ab=2 é's two bytes=3,4 space=5; <s>=6 special, <t>=7.
json::object small() {
  return json::parse(R"({
    "added_tokens": [{"id": 6, "content": "<s>", "special": true}, {"id": 7, "content": "<t>"}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ã": 3, "©": 4, "Ġ": 5}, "merges": ["a b"]}
  })")
      .as_object();
}

Result<std::unique_ptr<Tokenizer>> parse(const json::object& file, std::string_view config = "") {
  return Tokenizer::parse(json::serialize(file), config);
}

std::string error_of(const json::object& file, std::string_view config = "") {
  const auto parsed = parse(file, config);
  return parsed.has_error() ? to_string(parsed.error()) : "no error";
}

TEST(Tokenizer, KnowsItsVocabulary) {
  const auto tokenizer = parse(small()).value();
  EXPECT_EQ(tokenizer->vocab_size(), 8);
  EXPECT_EQ(tokenizer->token_to_id("ab"), 2);
  EXPECT_EQ(tokenizer->token_to_id("<s>"), 6);
  EXPECT_EQ(tokenizer->token_to_id("zz"), std::nullopt);
  EXPECT_EQ(tokenizer->token_text(5), "Ġ");
  EXPECT_EQ(tokenizer->token_bytes(5, false), " ");
  EXPECT_EQ(tokenizer->token_bytes(3, false), "\xC3");
  EXPECT_TRUE(tokenizer->is_special(6));
  EXPECT_FALSE(tokenizer->is_special(7));
  EXPECT_EQ(tokenizer->token_bytes(6, true), "");
  EXPECT_EQ(tokenizer->bos_token_id(), std::nullopt);
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreNothing) {
  const auto tokenizer = parse(small()).value();
  for (const int32_t id : {-1, 8, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->token_text(id), "");
    EXPECT_EQ(tokenizer->token_bytes(id, false), "");
    EXPECT_FALSE(tokenizer->is_special(id));
    EXPECT_EQ(tokenizer->decode(std::vector{0, id, 1}, false), "ab");
  }
}

TEST(Tokenizer, RepairsTextThatIsNotUtf8) {
  const auto tokenizer = parse(small()).value();
  EXPECT_THAT(tokenizer->encode("a\xC3", {}), ElementsAre(0));  // U+FFFD, whose bytes this vocabulary lacks
  EXPECT_THAT(tokenizer->encode("\xC3\xA9<s>", {}), ElementsAre(3, 4, 6));
}

TEST(Tokenizer, SpecialTokensInTheTextAreReadOnlyWhenAsked) {
  json::object file = small();
  file["model"].as_object()["vocab"].as_object()["s"] = 8;
  const auto tokenizer = parse(file).value();
  EXPECT_THAT(tokenizer->encode("<s><t>", {}), ElementsAre(6, 7));
  EXPECT_THAT(tokenizer->encode("<s><t>", {.parse_special_tokens = false}), ElementsAre(8, 7));
}

TEST(Tokenizer, TheConfigDecidesOnBosAndEos) {
  const auto encode = [](std::string_view config) { return parse(small(), config).value()->encode("a", {}); };
  EXPECT_THAT(encode(R"({"bos_token": "<s>"})"), ElementsAre(0));
  EXPECT_THAT(encode(R"({"bos_token": "<s>", "add_bos_token": true})"), ElementsAre(6, 0));
  EXPECT_THAT(
      encode(R"({"bos_token": {"content": "<s>"}, "eos_token": {"content": "<t>"}, "add_bos_token": true,
                         "add_eos_token": true})"),
      ElementsAre(6, 0, 7));
  EXPECT_THAT(encode(R"({"bos_token": null, "add_bos_token": true})"), ElementsAre(0));
}

TEST(Tokenizer, TheConfigOverridesTheTemplate) {
  json::object file = small();
  file["post_processor"] = json::parse(
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
          "special_tokens": {"<s>": {"ids": [6]}}})");
  EXPECT_THAT(parse(file).value()->encode("a", {}), ElementsAre(6, 0));
  EXPECT_THAT(parse(file).value()->encode("a", {.add_special_tokens = false}), ElementsAre(0));
  EXPECT_THAT(parse(file, R"({"add_bos_token": false})").value()->encode("a", {}), ElementsAre(0));
}

TEST(Tokenizer, TellsItsBosAndEos) {
  const auto tokenizer = parse(small(), R"({"bos_token": "<s>", "eos_token": {"content": "<t>"}})").value();
  EXPECT_EQ(tokenizer->bos_token_id(), 6);
  EXPECT_EQ(tokenizer->eos_token_id(), 7);
}

TEST(Tokenizer, ABosThatIsNotInTheVocabularyCannotBeAdded) {
  EXPECT_THAT(error_of(small(), R"({"bos_token": "<bos>", "add_bos_token": true})"),
              HasSubstr("tokenizer_config.json: bos_token: "));
}

TEST(Tokenizer, NamesAnUnsupportedComponentAndTheSupportedOnes) {
  const auto with = [](std::string_view key, std::string_view component) {
    json::object file = small();
    file[key] = json::parse(component);
    return error_of(file);
  };
  EXPECT_THAT(
      with("normalizer", R"({"type": "Precompiled"})"),
      testing::StartsWith("unsupported: tokenizer.json: normalizer.type: 'Precompiled' is not supported; "
                          "supported: null, NFC"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
                                        {"type": "Punctuation"}]})"),
              HasSubstr("tokenizer.json: pre_tokenizer.pretokenizers[1].type: 'Punctuation'"));
  EXPECT_THAT(
      with("pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})"),
      HasSubstr("pre_tokenizer.pattern: pattern '[a&&b]'"));
  EXPECT_THAT(
      with("pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Sideways"})"),
      HasSubstr("'Sideways' is not supported; supported: Isolated"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Split", "pattern": "a", "behavior": "Isolated"})"),
              HasSubstr("pre_tokenizer.pattern"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})"),
              HasSubstr("supported: always, first, never"));
  EXPECT_THAT(with("post_processor", R"({"type": "BertProcessing"})"),
              HasSubstr("post_processor.type: 'BertProcessing'"));
  EXPECT_THAT(
      with("post_processor", R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}]})"),
      HasSubstr("post_processor.single"));
  EXPECT_THAT(with("decoder", R"({"type": "WordPiece"})"), HasSubstr("decoder.type: 'WordPiece'"));
  EXPECT_THAT(with("decoder", "null"), HasSubstr("decoder: is missing"));
}

TEST(Tokenizer, RefusesAModelItCannotRun) {
  const auto with = [](std::string_view key, std::string_view value) {
    json::object file = small();
    file["model"].as_object()[key] = json::parse(value);
    return error_of(file);
  };
  EXPECT_THAT(with("type", R"("Unigram")"),
              HasSubstr("tokenizer.json: model.type: 'Unigram' is not supported"));
  EXPECT_THAT(with("continuing_subword_prefix", R"("##")"),
              HasSubstr("model.continuing_subword_prefix: '##'"));
  EXPECT_THAT(with("end_of_word_suffix", R"("</w>")"), HasSubstr("model.end_of_word_suffix"));
  EXPECT_THAT(with("dropout", "0.1"), HasSubstr("model.dropout"));
  EXPECT_THAT(with("unk_token", R"("<unk>")"), HasSubstr("'<unk>' is not in vocab"));
  EXPECT_THAT(with("merges", R"(["a b c"])"), HasSubstr("model.merges[0]"));
  EXPECT_THAT(with("merges", R"([["a", "z"]])"), HasSubstr("'z'"));
  EXPECT_THAT(with("merges", "{}"), HasSubstr("model.merges"));
  EXPECT_THAT(with("vocab", R"({"a": -1})"), HasSubstr("the id of token 'a'"));
  EXPECT_THAT(with("vocab", R"({"a": 1048576})"), HasSubstr("the id of token 'a'"));
  EXPECT_THAT(with("vocab", "[]"), HasSubstr("model.vocab"));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    EXPECT_EQ(with(affix, R"("")"), "no error");
}

TEST(Tokenizer, RefusesMalformedFiles) {
  EXPECT_THAT(to_string(Tokenizer::parse("{", "").error()), HasSubstr("tokenizer.json: not valid JSON"));
  EXPECT_THAT(to_string(Tokenizer::parse("{}", "").error()), HasSubstr("tokenizer.json: model: is missing"));
  EXPECT_THAT(error_of(small(), "["), HasSubstr("tokenizer_config.json"));
  json::object file = small();
  file["added_tokens"].as_array()[1].as_object()["id"] = -3;
  EXPECT_THAT(error_of(file), HasSubstr("tokenizer.json: added_tokens[1].id"));
  file["added_tokens"] = 3;
  EXPECT_THAT(error_of(file), HasSubstr("added_tokens"));
}

TEST(Tokenizer, EveryCutOfAFileIsRefused) {
  const std::string text = json::serialize(small());
  for (size_t length = 0; length < text.size(); ++length)
    EXPECT_TRUE(Tokenizer::parse(std::string_view(text).substr(0, length), "").has_error()) << length;
}

TEST(Tokenizer, LoadNamesTheFileThatIsNotThere) {
  const auto loaded = Tokenizer::load("/nonexistent");
  ASSERT_TRUE(loaded.has_error());
  EXPECT_EQ(loaded.error().code, Code::not_found);
  EXPECT_THAT(loaded.error().message, HasSubstr("/nonexistent/tokenizer.json"));
}

TEST(Tokenizer, LoadReadsBothFiles) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "tokenizer_load_test";
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer.json") << json::serialize(small());
  std::ofstream(dir / "tokenizer_config.json") << R"({"eos_token": "<s>"})";
  EXPECT_EQ(Tokenizer::load(dir).value()->eos_token_id(), 6);
  std::ofstream(dir / "tokenizer_config.json") << "nonsense";
  EXPECT_THAT(to_string(Tokenizer::load(dir).error()), HasSubstr((dir / "tokenizer_config.json").string()));
  std::filesystem::remove_all(dir);
}

// a, aa, aaaa, ... up to 2^12 letters.
json::object doubling() {
  json::object vocab;
  json::array merges;
  std::string token = "a";
  vocab[token] = 0;
  for (int32_t id = 1; id <= 12; ++id) {
    merges.push_back(json::array{json::value(token), json::value(token)});
    token += token;
    vocab[token] = id;
  }
  json::object file = small();
  file["added_tokens"] = json::array();
  file["model"] = json::object{{"vocab", vocab}, {"merges", merges}};
  return file;
}

TEST(Tokenizer, MergesAMillionLettersOfOnePiece) {
  const auto tokenizer = parse(doubling()).value();
  const size_t count = (1 << 20) + 5;
  const std::vector<int32_t> ids = tokenizer->encode(std::string(count, 'a'), {});
  ASSERT_EQ(ids.size(), (1u << 8) + 2);  // 2^8 tokens of 2^12 letters, then 4 and 1
  EXPECT_EQ(ids.front(), 12);
  EXPECT_EQ(ids[ids.size() - 2], 2);
  EXPECT_EQ(ids.back(), 0);
}

TEST(Tokenizer, LongAndShortPiecesMergeAlike) {
  const auto tokenizer = parse(doubling()).value();
  for (size_t count = 1; count <= 200; ++count) {
    std::vector<int32_t> expected;  // the binary digits of count
    for (int32_t id = 12; id >= 0; --id) {
      if ((count >> id & 1) != 0) expected.push_back(id);
    }
    EXPECT_EQ(tokenizer->encode(std::string(count, 'a'), {}), expected) << count;
  }
}

TEST(Tokenizer, OrdersAHostileRunOfMarks) {
  json::object file = small();
  file["normalizer"] = json::parse(R"({"type": "NFC"})");
  const auto tokenizer = parse(file).value();
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += "\u0300\u0316";
  EXPECT_THAT(tokenizer->encode(text + " b", {}), testing::IsSupersetOf({5, 1}));
}

}  // namespace
}  // namespace guildhall
