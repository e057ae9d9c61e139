#include "model/tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

std::string lossy(std::string_view text) {
  std::string out;
  append_lossy(text, out);
  return out;
}

TEST(Utf8, ReplacesEachMaximalBadSubsequence) {
  EXPECT_EQ(lossy("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(lossy("\xE2\x82"), "\uFFFD");      // cut
  EXPECT_EQ(lossy("\xE2\x82 x"), "\uFFFD x");  // cut by something else
  EXPECT_EQ(lossy("\xF0\x9F\x98\xF0"), "\uFFFD\uFFFD");
  EXPECT_EQ(lossy("\xC0\x80"), "\uFFFD\uFFFD");  // overlong
  EXPECT_EQ(lossy("\xE0\x80\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(lossy("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // a surrogate
  EXPECT_EQ(lossy("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(lossy("\x80\x80"), "\uFFFD\uFFFD");
}

TEST(Utf8, KeepsWhatIsValid) {
  const std::string text = std::string("a\0b", 3) + "\u00E9\u4E2D\U0010FFFF\uFFFD";
  EXPECT_EQ(lossy(text), text);
  EXPECT_EQ(valid_utf8_length(text), text.size());
}

TEST(Utf8, EveryCodePointSurvivesWritingAndReading) {
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    std::string text;
    append_utf8(code, text);
    const Utf8Char read = next_utf8(text);
    ASSERT_EQ(read.code, code);
    ASSERT_EQ(read.length, text.size());
  }
}

TEST(Utf8, KnowsWhichTailCouldStillBecomeWhole) {
  EXPECT_EQ(incomplete_tail_length(""), 0u);
  EXPECT_EQ(incomplete_tail_length("abc"), 0u);
  EXPECT_EQ(incomplete_tail_length("ab\xE2"), 1u);
  EXPECT_EQ(incomplete_tail_length("ab\xE2\x82"), 2u);
  EXPECT_EQ(incomplete_tail_length("ab\xE2\x82\xAC"), 0u);
  EXPECT_EQ(incomplete_tail_length("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(incomplete_tail_length("\xE0\x80"), 0u);  // no third byte makes this valid
  EXPECT_EQ(incomplete_tail_length("\x80\x80\x80\x80"), 0u);
  EXPECT_EQ(incomplete_tail_length("\xFF"), 0u);
}

}  // namespace
}  // namespace guildhall
