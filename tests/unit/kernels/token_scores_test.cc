// token_scores_test.cc: scores of tokens by hand, and cpu against ref.
#include "kernels/token_scores.h"

#include <limits>

#include "kernel_fixture.h"
#include "kernels/sampling.h"

namespace guildhall {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(TokenScores, AreLogProbabilitiesRanksAndTheBestBestFirst) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.1f), std::log(0.4f)};
  const ScoredRow wanted{.row = 0, .token = 2, .num_top = 3};
  TokenScores scores;
  token_scores_ref({logits.data(), 1, 4}, {&wanted, 1}, {&scores, 1});
  EXPECT_NEAR(scores.logprob, std::log(0.1), 1e-6);
  EXPECT_EQ(scores.rank, 3);  // two are more likely; its equal is not
  EXPECT_EQ(scores.top_id[0], 1);
  EXPECT_EQ(scores.top_id[1], 3);
  EXPECT_EQ(scores.top_id[2], 0);
  EXPECT_NEAR(scores.top_logprob[1], std::log(0.4), 1e-6);
}

class TokenScoresTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isa, TokenScoresTest, testing::ValuesIn(available_isas()), isa_name);

TEST_P(TokenScoresTest, CpuMatchesRef) {
  Team team({.num_threads = 2});
  std::mt19937 generator(5);
  for (const int64_t vocabulary : {1, 2, 19, 20, 21, 500, 5000}) {
    constexpr int64_t kRows = 4;
    std::vector<float> logits = random_floats(kRows * vocabulary, generator(), 4);
    for (float& x : logits) {
      if (vocabulary < 500) x = std::round(x);  // ties
      if (vocabulary > 2 && generator() % 16 == 0) x = -kInf;
    }
    std::vector<ScoredRow> wanted;
    for (const int32_t num_top : {0, 1, 5, kMaxTopScores})
      wanted.push_back({static_cast<int64_t>(generator() % kRows),
                        static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary)), num_top});
    std::vector<TokenScores> ref(wanted.size()), cpu(wanted.size());
    const View2<const float> logits_rv{logits.data(), kRows, vocabulary};
    token_scores_ref(logits_rv, wanted, ref);
    token_scores_cpu(team, logits_rv, wanted, cpu);
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(cpu[i].rank, ref[i].rank) << vocabulary;
      if (std::isfinite(ref[i].logprob))
        EXPECT_NEAR(cpu[i].logprob, ref[i].logprob, 1e-5);
      else
        EXPECT_EQ(cpu[i].logprob, ref[i].logprob);
      const std::span<const float> row{logits_rv.row(wanted[i].row), static_cast<size_t>(vocabulary)};
      EXPECT_TRUE(
          same_bits(cpu[i].logprob, row[static_cast<size_t>(wanted[i].token)] - log_sum_exp_cpu(row)));
      for (int64_t k = 0; k < std::min<int64_t>(wanted[i].num_top, vocabulary); ++k)
        EXPECT_EQ(cpu[i].top_id[k], ref[i].top_id[k]) << vocabulary << " " << k;
    }
  }
}

TEST_P(TokenScoresTest, ANanCountsAsTheLeastLikely) {
  Team team({.num_threads = 1});
  const std::vector<float> logits{kNan, 1, 2};
  const std::vector<ScoredRow> wanted{{0, 2, 3}, {0, 0, 0}};
  std::vector<TokenScores> scores(2);
  token_scores_cpu(team, {logits.data(), 1, 3}, wanted, scores);
  EXPECT_EQ(scores[0].rank, 1);
  EXPECT_EQ(scores[0].top_id[2], 0);
  EXPECT_EQ(scores[1].rank, 3);
}

}  // namespace
}  // namespace guildhall
