#include "router/http/text_accumulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/http/tiny_tokenizer.h"

namespace guildhall {
namespace {

using testing::ElementsAre;

TextAccumulator make(std::vector<std::string> stops, bool keep_tokens = false, int64_t first_offset = 0) {
  return TextAccumulator(tiny_tokenizer(), {std::move(stops), keep_tokens, first_offset});
}

void push_bytes(TextAccumulator& text, std::string_view bytes) {
  for (int32_t id : byte_ids(bytes)) text.push(id, std::nullopt);
}

std::vector<int64_t> offsets(const TextDelta& delta) {
  std::vector<int64_t> all;
  for (const ScoredToken& token : delta.tokens) all.push_back(token.text_offset);
  return all;
}

TEST(TextAccumulator, WithoutStopsTextIsShownAtOnce) {
  TextAccumulator text = make({});
  text.push(kHe, std::nullopt);
  EXPECT_EQ(text.take().text, "he");
  text.push(kLl, std::nullopt);
  EXPECT_EQ(text.take().text, "ll");
  EXPECT_EQ(text.take().text, "");
}

TEST(TextAccumulator, CharacterSplitOverTokensIsShownWhole) {
  TextAccumulator text = make({});
  std::string shown;
  for (int32_t id : byte_ids("é€😀")) {
    text.push(id, std::nullopt);
    std::string part = text.take().text;
    EXPECT_TRUE(part.empty() || part == "é" || part == "€" || part == "😀") << part;
    shown += part;
  }
  EXPECT_EQ(shown, "é€😀");
}

TEST(TextAccumulator, HalfACharacterAtTheEndIsReplaced) {
  TextAccumulator text = make({});
  push_bytes(text, "a\xE2\x82");
  EXPECT_EQ(text.take().text, "a");
  text.finish();
  EXPECT_EQ(text.take().text, "\uFFFD");
}

TEST(TextAccumulator, StopInsideATokenKeepsTheTextBefore) {
  TextAccumulator text = make({"e"});
  text.push(kHe, std::nullopt);
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.take().text, "h");
}

TEST(TextAccumulator, OfOverlappingStopsTheFirstThatIsCompleteEndsTheText) {
  // Both begin in the same place; one begins within the other; one is the end of the other.
  for (const auto& [stops, all, want] : {std::tuple{std::vector<std::string>{"abcd", "ab"}, "xabcdz", "x"},
                                         std::tuple{std::vector<std::string>{"abcd", "bc"}, "xabcdz", "xa"},
                                         std::tuple{std::vector<std::string>{"cd", "abcd"}, "xabcdz", "x"},
                                         std::tuple{std::vector<std::string>{"aab"}, "xaaabz", "xa"},
                                         std::tuple{std::vector<std::string>{"é€", "€😀"}, "xé😀€😀z", "xé😀"}}) {
    TextAccumulator text = make(stops);
    std::string shown;
    for (const int32_t id : byte_ids(all)) {
      text.push(id, std::nullopt);
      shown += text.take().text;
      EXPECT_TRUE(std::string_view(want).starts_with(shown)) << shown;
    }
    EXPECT_TRUE(text.stopped());
    EXPECT_EQ(shown, want);
  }
}

TEST(TextAccumulator, AStopMayBeIncludedAndNothingBehindIt) {
  TextAccumulator text(tiny_tokenizer(), {.stops = {"ab"}, .keep_tokens = true, .include_stop = true});
  push_bytes(text, "xa");
  EXPECT_EQ(text.take().text, "x");
  text.push('b', std::nullopt);
  text.push('c', std::nullopt);
  const TextDelta rest = text.take();
  EXPECT_EQ(rest.text, "ab");
  EXPECT_THAT(offsets(rest), ElementsAre(1, 2));
}

TEST(TextAccumulator, AStopWithinMinTokensIsNone) {
  TextAccumulator text(tiny_tokenizer(), {.stops = {"ab"}, .min_tokens = 3});
  push_bytes(text, "aba");  // the last may yet begin one
  EXPECT_EQ(text.take().text, "ab");
  text.push('b', std::nullopt);
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.take().text, "");
}

TEST(TextAccumulator, StopSplitOverManyTokensNeverLeaks) {
  TextAccumulator text = make({"\n\nUser:"});
  std::string shown;
  for (int32_t id : byte_ids("ok\n\nUser: hi")) {
    text.push(id, std::nullopt);
    shown += text.take().text;
    EXPECT_EQ(std::string("ok").substr(0, shown.size()), shown);
  }
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(shown, "ok");
}

TEST(TextAccumulator, StartOfAStopThatGoesOnOtherwiseIsReleased) {
  TextAccumulator text = make({"STOP"});
  push_bytes(text, "aST");
  EXPECT_EQ(text.take().text, "a");
  push_bytes(text, "A");
  EXPECT_EQ(text.take().text, "STA");
  push_bytes(text, "STO");
  EXPECT_EQ(text.take().text, "");
  text.finish();
  EXPECT_EQ(text.take().text, "STO");
  EXPECT_FALSE(text.stopped());
}

TEST(TextAccumulator, StopThatRepeatsItselfIsFound) {
  TextAccumulator text = make({"aab"});
  push_bytes(text, "aaab");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.take().text, "a");
}

TEST(TextAccumulator, OfOverlappingStopsTheFirstCompletedWins) {
  TextAccumulator text = make({"abcd", "bc"});
  push_bytes(text, "xabcd");
  EXPECT_EQ(text.take().text, "xa");
  TextAccumulator longest = make({"c", "abc"});
  push_bytes(longest, "xabc");
  EXPECT_EQ(longest.take().text, "x");
}

TEST(TextAccumulator, StopMayBePartOfNonAsciiText) {
  TextAccumulator text = make({"。終"});
  push_bytes(text, "はい。終わり");
  EXPECT_EQ(text.take().text, "はい");
}

TEST(TextAccumulator, OffsetsCountCodePointsFromTheGivenStart) {
  TextAccumulator text = make({}, true, 10);
  push_bytes(text, "é");
  text.push(kHe, std::nullopt);
  text.push('x', std::nullopt);
  EXPECT_THAT(offsets(text.take()), ElementsAre(10, 10, 11, 13));
}

TEST(TextAccumulator, TokensWaitWithTheirTextAndThoseOfTheStopAreDropped) {
  TextAccumulator text = make({"ell"}, true);
  text.push('a', std::nullopt);
  text.push(kHe, std::nullopt);
  TextDelta first = text.take();
  EXPECT_EQ(first.text, "ah");
  EXPECT_THAT(offsets(first), ElementsAre(0));
  text.push(kLl, std::nullopt);
  TextDelta last = text.take();
  EXPECT_EQ(last.text, "");
  ASSERT_EQ(last.tokens.size(), 1u);  // "he" began before the cut; "ll" did not
  EXPECT_EQ(last.tokens[0].id, kHe);
}

TEST(TextAccumulator, HiddenTokenIsListedWithoutText) {
  TextAccumulator text = make({}, true);
  text.push('a', std::nullopt);
  text.push_hidden('!', std::nullopt);
  text.finish();
  TextDelta delta = text.take();
  EXPECT_EQ(delta.text, "a");
  EXPECT_THAT(offsets(delta), ElementsAre(0, 1));
}

TEST(TextAccumulator, NothingFollowsAStop) {
  TextAccumulator text = make({"b"}, true);
  push_bytes(text, "abc");
  text.finish();
  EXPECT_EQ(text.take().text, "a");
  push_bytes(text, "def");
  TextDelta delta = text.take();
  EXPECT_TRUE(delta.text.empty() && delta.tokens.empty());
}

// Oracle: the text cut where the first stop string is complete, found one character at a time.
std::string cut_at_stop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 0; end <= text.size(); ++end) {
    std::string head = text.substr(0, end);
    size_t cut = std::string::npos;
    for (const std::string& stop : stops)
      if (head.ends_with(stop)) cut = std::min(cut, end - stop.size());
    if (cut != std::string::npos) return text.substr(0, cut);
  }
  return text;
}

TEST(TextAccumulator, RandomTextsAgreeWithTheOracleHoweverOftenTaken) {
  std::mt19937 random(7);
  const std::vector<std::string> pieces = {"a", "b", "é", "ab"};
  for (int round = 0; round < 2000; ++round) {
    auto random_text = [&](size_t max_pieces) {
      std::string text;
      for (size_t i = 1 + random() % max_pieces; i > 0; --i) text += pieces[random() % pieces.size()];
      return text;
    };
    std::vector<std::string> stops;
    for (size_t i = random() % 3; i > 0; --i) stops.push_back(random_text(5));
    std::string full = random_text(20), shown;
    TextAccumulator text = make(stops, true);
    size_t num_tokens = 0;
    for (int32_t id : byte_ids(full)) {
      text.push(id, std::nullopt);
      if (random() % 2) {
        TextDelta delta = text.take();
        shown += delta.text;
        num_tokens += delta.tokens.size();
      }
    }
    text.finish();
    TextDelta delta = text.take();
    shown += delta.text;
    num_tokens += delta.tokens.size();
    ASSERT_EQ(shown, cut_at_stop(full, stops)) << full;
    ASSERT_EQ(num_tokens, shown.size());  // one token per byte
  }
}

}  // namespace
}  // namespace guildhall
