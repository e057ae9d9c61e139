#include "model/tokenizer/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> found(const Regex& regex, std::string_view text) {
  std::vector<ByteSpan> matches;
  regex.find_all(text, matches);
  std::vector<std::string> out;
  for (const ByteSpan& match : matches) out.emplace_back(text.substr(match.begin, match.end - match.begin));
  return out;
}

std::vector<std::string> found(std::string_view pattern, std::string_view text) {
  return found(Regex::compile(pattern).value(), text);
}

TEST(Regex, SpaceIsUnicodesWhiteSpace) {
  // U+180E was white space until Unicode 6.3, and still is in PCRE2's \s.
  EXPECT_THAT(found(R"(\s)", "\u180E\u200B\u0085\u3000"), ElementsAre("\u0085", "\u3000"));
  EXPECT_THAT(found(R"([^\S\n])", "\u180E \n"), ElementsAre(" "));
}

TEST(Regex, WordsHaveMarksAndLetterNumbers) {
  EXPECT_THAT(found(R"(\w+)", "e\u0301\u2167_1 -"), ElementsAre("e\u0301\u2167_1"));
  EXPECT_THAT(found(R"([\w-]+)", "a-b c"), ElementsAre("a-b", "c"));
  EXPECT_THAT(found(R"(\W+)", "a-\u0301b"), ElementsAre("-"));
}

TEST(Regex, AnchorsAreAtEveryLine) {
  EXPECT_THAT(found(R"( +$)", "a  \nb \n c"), ElementsAre("  ", " "));
  EXPECT_THAT(found(R"(^.)", "ab\ncd"), ElementsAre("a", "c"));
}

TEST(Regex, TranslatesRubysSpellings) {
  EXPECT_EQ(*onig_to_pcre2(R"([\u4E00-\u9FA5]\h)"), R"([\x{4E00}-\x{9FA5}][0-9A-Fa-f])");
  EXPECT_EQ(*onig_to_pcre2(R"((?m:.)(?i-m:x)(?!y)(?<=z))"), R"((?s:.)(?i-s:x)(?!y)(?<=z))");
  EXPECT_EQ(*onig_to_pcre2(R"(\p{Han}\p{^Greek}\p{L}\p{Lu})"), R"(\p{sc:Han}\p{^sc:Greek}\p{L}\p{Lu})");
  EXPECT_EQ(*onig_to_pcre2("a{,3}b{2,}{"), "a{0,3}b{2,}{");
  EXPECT_EQ(*onig_to_pcre2("[]a]"), R"([\]a])");
}

TEST(Regex, RefusesWhatWouldMeanSomethingElse) {
  for (const char* pattern : {R"([a-z&&[^b]])", R"([a[bc]])", R"(\d{1,3}+)", R"(a(?i)b)", R"([\W])", R"(\X)",
                              R"(\R)", R"(\u12)", R"(\pL)", "\\", "[[:alpha"}) {
    const Result<Regex> regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.has_error()) << pattern;
    EXPECT_EQ(regex.error().code, Code::unsupported);
    EXPECT_THAT(regex.error().message, HasSubstr(pattern));
  }
}

TEST(Regex, SaysWhereAPatternIsBroken) {
  const Result<Regex> regex = Regex::compile("a(b");
  ASSERT_TRUE(regex.has_error());
  EXPECT_EQ(regex.error().code, Code::invalid_argument);
  EXPECT_THAT(regex.error().message, HasSubstr("'a(b'"));
}

TEST(Regex, LiteralsMatchThemselves) {
  EXPECT_THAT(found(Regex::literal("a.(").value(), "axa.(b"), ElementsAre("a.("));
}

TEST(Regex, EmptyMatchesSeparateButDoNotRepeat) {
  EXPECT_THAT(found(R"(x*)", "axxb"), ElementsAre("", "xx", ""));
  EXPECT_THAT(found(R"((?=\p{Lu}))", "aBc\u00C9"), ElementsAre("", ""));
}

TEST(Regex, AMatchMayBeLongerThanTheWindow) {
  for (const size_t length :
       {Regex::kWindowBytes - 1, Regex::kWindowBytes, Regex::kWindowBytes + 1, size_t{300'001}}) {
    const std::string run(length, 'a');
    EXPECT_THAT(found("a+|b", "b" + run + "b"), ElementsAre("b", run, "b"));
    EXPECT_THAT(found(R"(\s+(?!\S)|\s+)", std::string(length, ' ') + "x"),
                ElementsAre(std::string(length - 1, ' '), " "));
    EXPECT_THAT(found("b$", run + "b"), ElementsAre("b"));
    EXPECT_THAT(found("\u00E9+", "x" + std::string(length, 'x') + "\u00E9"), ElementsAre("\u00E9"));
  }
}

TEST(Regex, FindsTheSameWithWindowsAsWithoutNearTheirEdges) {
  const Regex regex = Regex::compile(R"( ?\p{L}+|\s+(?!\S)|\s+)").value();
  for (size_t shift = 0; shift < 12; ++shift) {
    const std::string filler(Regex::kWindowBytes - 6 + shift,
                             '.');  // no match, so the next window starts after it
    EXPECT_THAT(found(regex, filler + "ab\u00E9   cd"), ElementsAre("ab\u00E9", "  ", " cd"));
  }
}

TEST(Regex, GivesUpOnTextThatWouldTakeQuadraticTime) {
  // At each of a million starts \s+ runs to the x before $ fails: 5e11 steps if nothing stopped it.
  const std::string text = std::string(1'000'000, ' ') + "x \n";
  EXPECT_THAT(found(R"(\s+$)", text), IsEmpty());
  const std::string shorter = std::string(Regex::kWindowBytes / 2, ' ') + "x ";
  EXPECT_THAT(found(R"(\s+$)", shorter), ElementsAre(" "));
}

TEST(Regex, GivesUpOnAPatternThatBlowsUp) {
  EXPECT_THAT(found(R"((?:a|a)+$)", std::string(60, 'a') + "b a"), testing::SizeIs(testing::Le(1u)));
}

}  // namespace
}  // namespace guildhall
