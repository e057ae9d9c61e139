// logit_edits_test.cc: edits of logits by hand, against known answers of Hugging Face's rule, and cpu against
// ref.
#include "kernels/logit_edits.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> edited(std::vector<float> logits, std::vector<LogitEdit> edits) {
  const EditedRow row{.row = 0, .num_edits = static_cast<int64_t>(edits.size())};
  edit_logits_ref({&row, 1}, edits, {}, {logits.data(), 1, static_cast<int64_t>(logits.size())});
  return logits;
}

TEST(LogitEdits, RepetitionDividesWhatIsAboveZeroAndMultipliesTheRest) {
  EXPECT_EQ(
      edited({3, -3, 0, 3},
             {{.id = 0, .repetition = 1.5f}, {.id = 1, .repetition = 1.5f}, {.id = 2, .repetition = 1.5f}}),
      (std::vector<float>{2, -4.5f, 0, 3}));
  EXPECT_EQ(edited({3, -3}, {{.id = 0, .repetition = 0.5f}, {.id = 1, .repetition = 0.5f}}),
            (std::vector<float>{6, -1.5f}));
}

TEST(LogitEdits, BiasComesFirstThenRepetitionThenPenalties) {
  EXPECT_EQ(edited({1}, {{.id = 0, .bias = 3, .repetition = 2, .penalty = 0.5f}}), std::vector<float>{1.5f});
  EXPECT_EQ(edited({1}, {{.id = 0, .bias = -3, .repetition = 2, .penalty = 0.5f}}),
            std::vector<float>{-4.5f});
}

TEST(LogitEdits, ABanIsABiasOfMinusInfinity) {
  EXPECT_EQ(edited({1, 7, 2}, {{.id = 1, .bias = -kInf, .repetition = 1.3f, .penalty = -2}}),
            (std::vector<float>{1, -kInf, 2}));
}

TEST(LogitEdits, AMaskLeavesWhatIsAllowedAsItsEditsHaveIt) {
  for (const int64_t vocabulary : {1, 31, 32, 33, 100}) {
    std::vector<float> logits(static_cast<size_t>(2 * vocabulary), 1);
    const std::vector<LogitEdit> edits{{.id = 0, .bias = 2}};
    std::vector<uint32_t> allowed(static_cast<size_t>(mask_words(vocabulary)));
    allowed[0] = 1;
    allowed.back() |= 1u << ((vocabulary - 1) % kMaskBits);
    const EditedRow row{.row = 1, .num_edits = 1, .mask = 0};
    edit_logits_ref({&row, 1}, edits, {allowed.data(), 1, static_cast<int64_t>(allowed.size())},
                    {logits.data(), 2, vocabulary});
    for (int64_t v = 0; v < vocabulary; ++v) {
      EXPECT_EQ(logits[static_cast<size_t>(v)], 1) << "a row that is not listed";
      const float want = v == 0 ? 3 : v == vocabulary - 1 ? 1 : -kInf;
      EXPECT_EQ(logits[static_cast<size_t>(vocabulary + v)], want) << v << " of " << vocabulary;
    }
  }
}

TEST(LogitEdits, CpuEqualsRefOnRandomRows) {
  Team team({.num_threads = 2});
  std::mt19937 generator(3);
  for (int trial = 0; trial < 200; ++trial) {
    const auto vocabulary = static_cast<int64_t>(1 + generator() % 400), rows = int64_t{5};
    std::vector<float> a = random_floats(rows * vocabulary, generator(), 5), b;
    for (float& x : a)
      if (generator() % 50 == 0) x = generator() % 2 == 0 ? kInf : -kInf;
    b = a;
    std::vector<LogitEdit> edits;
    std::vector<EditedRow> edited_rows;
    const int64_t words = mask_words(vocabulary), num_masks = 2;
    std::vector<uint32_t> allowed(static_cast<size_t>(num_masks * words));
    for (uint32_t& word : allowed) word = generator() % 3 == 0 ? 0 : generator() % 2 == 0 ? ~0u : generator();
    for (const int64_t row : {4, 0, 2}) {
      const auto first = static_cast<int64_t>(edits.size());
      for (int64_t id = 0; id < vocabulary; ++id)
        if (generator() % 4 == 0)
          edits.push_back(
              {static_cast<int32_t>(id), generator() % 5 == 0 ? -kInf : random_floats(1, generator())[0],
               0.5f + static_cast<float>(generator() % 100) / 50, random_floats(1, generator())[0]});
      edited_rows.push_back({row, first, static_cast<int64_t>(edits.size()) - first,
                             static_cast<int64_t>(generator() % (num_masks + 1)) - 1});
    }
    const View2<const uint32_t> allowed_mw{allowed.data(), num_masks, words};
    edit_logits_ref(edited_rows, edits, allowed_mw, {a.data(), rows, vocabulary});
    edit_logits_cpu(team, edited_rows, edits, allowed_mw, {b.data(), rows, vocabulary});
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_TRUE(same_bits(a[i], b[i]) || (std::isnan(a[i]) && std::isnan(b[i]))) << trial << " " << i;
  }
}

}  // namespace
}  // namespace guildhall
