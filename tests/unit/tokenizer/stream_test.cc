#include <gtest/gtest.h>

#include <thread>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

std::unique_ptr<Tokenizer> load_case(const std::string& name) {
  return Tokenizer::load(std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/unit/tokenizer/cases" / name)
      .value();
}

struct Streamed {
  std::string text;
  bool valid_throughout = true;
};

Streamed stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  Streamed out;
  const auto take = [&](const std::string& part) {
    out.valid_throughout = out.valid_throughout && valid_utf8_length(part) == part.size();
    out.text += part;
  };
  for (const int32_t id : ids) take(decoder.push(id));
  take(decoder.finish());
  return out;
}

TEST(StreamDecoder, HoldsBackAnIncompleteSequence) {
  const auto tokenizer = load_case("gpt2");
  StreamDecoder decoder(*tokenizer, false);
  std::string all;
  // U+10348 is no merge of the small vocabulary: four tokens of one byte each.
  const std::vector<int32_t> ids = tokenizer->encode("\U00010348", {.add_special_tokens = false});
  ASSERT_EQ(ids.size(), 4u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids[3]), "\U00010348");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, GivesUpACutSequenceAtTheEnd) {
  const auto tokenizer = load_case("gpt2");
  const std::vector<int32_t> ids = tokenizer->encode("\U00010348", {.add_special_tokens = false});
  StreamDecoder decoder(*tokenizer, false);
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, EqualsDecodeForAnyIds) {
  const auto tokenizer = load_case("qwen2");
  uint32_t state = 7;
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525u + 1013904223u;
      ids.push_back(static_cast<int32_t>(state >> 8) % (tokenizer->vocab_size() + 2));
    }
    for (const bool skip : {false, true}) {
      const Streamed streamed = stream(*tokenizer, ids, skip);
      EXPECT_TRUE(streamed.valid_throughout);
      EXPECT_EQ(streamed.text, tokenizer->decode(ids, skip));
    }
  }
}

TEST(StreamDecoder, ContinuesATextSoItsFirstSpaceStays) {
  const auto tokenizer = load_case("mixtral_legacy");
  const std::vector<int32_t> ids = tokenizer->encode("the dog 😀", {.add_special_tokens = false});
  EXPECT_EQ(tokenizer->decode(ids, false), "the dog 😀");
  EXPECT_EQ(stream(*tokenizer, ids, false).text, " the dog 😀");
}

TEST(StreamDecoder, SkipsSpecialTokens) {
  const auto tokenizer = load_case("qwen2");
  const std::vector<int32_t> ids = tokenizer->encode("<|im_start|>a<think>b<|im_end|>", {});
  EXPECT_EQ(stream(*tokenizer, ids, true).text, "a<think>b");
  EXPECT_EQ(stream(*tokenizer, ids, false).text, "<|im_start|>a<think>b<|im_end|>");
}

TEST(Tokenizer, EncodesAndDecodesFromManyThreads) {
  const auto tokenizer = load_case("nfc_flags");
  const std::string text = "The quick cafe\u0301 <s> 12345 😀  \n\n" + std::string(300, 'e');
  const std::vector<int32_t> expected = tokenizer->encode(text, {});
  std::vector<std::thread> threads;
  std::array<bool, 4> equal{};
  for (size_t i = 0; i < equal.size(); ++i) {
    threads.emplace_back([&, i] {
      equal[i] = true;
      for (int round = 0; round < 50; ++round) {
        equal[i] = equal[i] && tokenizer->encode(text, {}) == expected;
        equal[i] = equal[i] && !tokenizer->decode(expected, true).empty();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, (std::array<bool, 4>{true, true, true, true}));
}

}  // namespace
}  // namespace guildhall
