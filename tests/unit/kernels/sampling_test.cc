// sampling_test.cc: the generator's known answers; sample_ref by hand; sample_cpu equal to it on anything.
#include "kernels/sampling.h"

#include <algorithm>
#include <limits>
#include <map>

#include "kernel_fixture.h"
#include "kernels/philox.h"
#include "kernels/sampling_weight.h"

namespace guildhall {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Philox, KnownAnswers) {
  using Four = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(SamplingUniform, IsUniformInTheUnitIntervalAndKeyedBySeedAndPosition) {
  double sum = 0;
  std::array<int, 10> tenth{};
  for (uint64_t position = 0; position < 20000; ++position) {
    const double u = sampling_uniform(42, position);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    ++tenth[static_cast<size_t>(u * 10)];
  }
  EXPECT_NEAR(sum / 20000, 0.5, 0.01);
  for (int count : tenth) EXPECT_NEAR(count, 2000, 200);  // 4.7 standard deviations
  EXPECT_EQ(sampling_uniform(7, 9), sampling_uniform(7, 9));
  EXPECT_NE(sampling_uniform(7, 9), sampling_uniform(7, 10));
  EXPECT_NE(sampling_uniform(7, 9), sampling_uniform(8, 9));
  EXPECT_NE(sampling_uniform(7, 9), sampling_uniform(7 + (uint64_t{1} << 32), 9));
  EXPECT_EQ(sampling_uniform(0, 0), static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
}

TEST(SamplingExp, IsWithinThreeTenMillionths) {
  for (float x = 0; x > -29; x -= 0.00137f)
    ASSERT_NEAR(sampling_exp(x) / std::exp(static_cast<double>(x)), 1, 3e-7) << x;
}

// Every test below holds for ref and cpu; u runs over the interval.
class Sampling : public IsaTest {
 protected:
  std::map<int32_t, double> shares(const std::vector<float>& logits, const SamplingRule& rule) {
    constexpr int kDraws = 1000;
    std::map<int32_t, double> share;
    for (int i = 0; i < kDraws; ++i) {
      const double u = (i + 0.5) / kDraws;
      const int32_t id = sample_ref(logits, rule, u);
      EXPECT_EQ(sample_cpu(logits, rule, u), id);
      share[id] += 1.0 / kDraws;
    }
    return share;
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, Sampling, testing::ValuesIn(available_isas()), isa_name);

std::vector<float> logs(const std::vector<double>& p) {
  std::vector<float> x;
  for (double v : p) x.push_back(static_cast<float>(std::log(v)));
  return x;
}

TEST_P(Sampling, DrawsEachTokenByItsProbabilityMostLikelyFirst) {
  const std::vector<float> logits = logs({0.1, 0.6, 0.3});
  const auto share = shares(logits, {});
  EXPECT_NEAR(share.at(0), 0.1, 0.002);
  EXPECT_NEAR(share.at(1), 0.6, 0.002);
  EXPECT_NEAR(share.at(2), 0.3, 0.002);
  EXPECT_EQ(sample_cpu(logits, {}, 0.0), 1);
  EXPECT_EQ(sample_cpu(logits, {}, 0.61), 2);
  EXPECT_EQ(sample_cpu(logits, {}, 0.95), 0);
}

TEST_P(Sampling, TemperatureSharpensAndZeroIsGreedy) {
  const std::vector<float> logits = logs({0.2, 0.8});
  EXPECT_NEAR(shares(logits, {.temperature = 0.5f}).at(0), 0.04 / 0.68, 0.002);
  EXPECT_EQ(shares(logits, {.temperature = 0}).size(), 1u);
  EXPECT_EQ(sample_cpu(logits, {.temperature = 0}, 0.99), 1);
  EXPECT_EQ(sample_cpu(std::vector<float>{1, 5, 5, 2}, {.temperature = 0}, 0.99), 1);
  EXPECT_EQ(shares({1, 1.0001f}, {.temperature = 1e-40f}).size(), 1u);
}

TEST_P(Sampling, TopKKeepsTheMostLikelyAndTheLowestIdsAmongTies) {
  const auto share = shares(logs({0.1, 0.2, 0.4, 0.3}), {.top_k = 2});
  EXPECT_EQ(share.size(), 2u);
  EXPECT_NEAR(share.at(2), 4.0 / 7, 0.002);
  EXPECT_EQ(sample_cpu(std::vector<float>{3, 7, 7}, {.top_k = 1}, 0.999), 1);
  const auto tied = shares({0, 0, 0, 0, 0}, {.top_k = 3});
  EXPECT_EQ(tied.size(), 3u);
  EXPECT_NEAR(tied.at(2), 1.0 / 3, 0.002);
  EXPECT_EQ(shares({0, 0}, {.top_k = 50}).size(), 2u);
}

TEST_P(Sampling, TopPKeepsTheSmallestSetThatReachesTheMass) {
  const std::vector<float> logits = logs({0.1, 0.2, 0.4, 0.3});
  EXPECT_EQ(shares(logits, {.top_p = 0.5f}).size(), 2u);
  EXPECT_NEAR(shares(logits, {.top_p = 0.5f}).at(2), 4.0 / 7, 0.002);
  EXPECT_EQ(shares(logits, {.top_p = 0.65f}).size(), 2u);
  EXPECT_EQ(shares(logits, {.top_p = 0.75f}).size(), 3u);
  EXPECT_EQ(shares(logits, {.top_p = 1e-9f}).size(), 1u);
  // After the top k: 0.4 of 0.7 reaches one half.
  EXPECT_EQ(shares(logits, {.top_p = 0.5f, .top_k = 2}).size(), 1u);
}

TEST_P(Sampling, MinPKeepsWhatIsLikelyBesideTheBest) {
  const std::vector<float> logits = logs({0.1, 0.2, 0.4, 0.3});
  EXPECT_EQ(shares(logits, {.min_p = 0.45f}).size(), 3u);
  EXPECT_EQ(shares(logits, {.min_p = 0.55f}).size(), 2u);
  EXPECT_NEAR(shares(logits, {.min_p = 0.55f}).at(2), 4.0 / 7, 0.002);
  EXPECT_EQ(shares(logits, {.min_p = 1}).size(), 1u);
  EXPECT_EQ(shares({2, 2, 1}, {.min_p = 1}).size(), 2u);  // ties with the best are as likely
  // After the temperature, before the top p: 0.4 of 0.7 reaches 0.55.
  EXPECT_EQ(shares(logits, {.temperature = 2, .min_p = 0.55f}).size(), 3u);
  EXPECT_EQ(shares(logits, {.top_p = 0.55f, .min_p = 0.55f}).size(), 1u);
}

TEST_P(Sampling, InfinitiesAndNans) {
  for (const auto& [id, share] : shares({-kInf, 1, kNan, -kInf, 1}, {})) {
    EXPECT_TRUE(id == 1 || id == 4) << id;
    EXPECT_NEAR(share, 0.5, 0.002);
  }
  EXPECT_EQ(shares({1, kInf, 2, kInf}, {}).size(), 2u);
  EXPECT_EQ(shares({1, kInf, 2, kInf}, {}).count(1), 1u);
  EXPECT_EQ(sample_cpu(std::vector<float>{-kInf, 3, kNan}, {.temperature = 0}, 0), 1);
  for (const SamplingRule& rule :
       {SamplingRule{}, SamplingRule{.temperature = 0}, SamplingRule{.top_k = 2}}) {
    EXPECT_EQ(shares({-kInf, -kInf}, rule).count(0), 1u);
    EXPECT_EQ(shares({kNan, kNan, kNan}, rule).count(0), 1u);
  }
}

TEST_P(Sampling, CpuEqualsRefOnThousandsOfRandomRows) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  const auto one_of = [&](auto values) { return values[generator() % values.size()]; };
  for (int trial = 0; trial < 4000; ++trial) {
    const int64_t vocabulary = one_of(std::vector<int64_t>{1, 2, 3, 15, 16, 17, 100, 257, 1000});
    std::vector<float> logits =
        random_floats(vocabulary, generator(), one_of(std::vector<float>{0.01f, 1, 5, 100}));
    const float step = one_of(std::vector<float>{0, 0.25f, 1, 1000});  // a coarse grid makes ties
    for (float& x : logits) {
      if (step > 0) x = std::round(x / step) * step;
      if (trial % 5 == 0 && generator() % 8 == 0)
        x = one_of(std::vector<float>{-kInf, kNan, -0.0f, 0.0f, -1e30f});
    }
    const SamplingRule rule{one_of(std::vector<float>{0, 0.01f, 0.7f, 1, 1, 3, 100}),
                            one_of(std::vector<float>{1e-6f, 0.1f, 0.5f, 0.9f, 0.99f, 1, 1}),
                            one_of(std::vector<int32_t>{0, 0, 1, 2, 5, 40, 5000}),
                            one_of(std::vector<float>{0, 0, 0, 1e-9f, 0.05f, 0.5f, 1})};
    for (double u : {0.0, uniform(generator), uniform(generator), 1 - 0x1p-53})
      ASSERT_EQ(sample_cpu(logits, rule, u), sample_ref(logits, rule, u))
          << "trial " << trial << " V " << vocabulary << " temperature " << rule.temperature << " top_p "
          << rule.top_p << " top_k " << rule.top_k << " min_p " << rule.min_p << " u " << u;
  }
}

TEST_P(Sampling, CpuEqualsRefOnALargeVocabulary) {
  const std::vector<float> spread = random_floats(150001, 1, 3), equal(150001, 2.5f);
  std::vector<float> outlier = random_floats(150001, 2, 1e-3f);  // one bucket holds nearly everything
  outlier[77] = 5;
  for (const std::span<const float> logits :
       {std::span<const float>(spread), std::span<const float>(equal), std::span<const float>(outlier)})
    for (const SamplingRule& rule : {SamplingRule{}, SamplingRule{.top_p = 0.9f}, SamplingRule{.top_k = 40},
                                     SamplingRule{.temperature = 2, .top_p = 0.5f, .top_k = 100000}})
      for (double u : {0.3, 0.999999}) ASSERT_EQ(sample_cpu(logits, rule, u), sample_ref(logits, rule, u));
}

TEST_P(Sampling, LogSumExpMatchesRef) {
  for (int64_t n : {1, 2, 17, 511, 513, 5000, 150001}) {
    for (float scale : {0.0f, 1.0f, 30.0f}) {
      const std::vector<float> logits = random_floats(n, 3, scale);
      // exp within 2e-7, block sums of at most 512/4 roundings, and the result's own rounding.
      const float expected = log_sum_exp_ref(logits);
      EXPECT_NEAR(log_sum_exp_cpu(logits), expected, 1e-5 + 1.2e-7 * std::abs(expected)) << n << " " << scale;
    }
  }
  EXPECT_EQ(log_sum_exp_cpu(std::vector<float>{-kInf, -kInf}), -kInf);
  EXPECT_EQ(log_sum_exp_cpu(std::vector<float>{1, kInf}), kInf);
  EXPECT_NEAR(log_sum_exp_cpu(std::vector<float>{-kInf, 3}), 3, 1e-6);
}

TEST(TopN, BestFirstTiesToTheLowestId) {
  const std::vector<float> logits = {1, 5, kNan, 5, -kInf, 7};
  EXPECT_EQ(top_n(logits, 3), (std::vector<int32_t>{5, 1, 3}));
  EXPECT_EQ(top_n(logits, 100), (std::vector<int32_t>{5, 1, 3, 0, 2, 4}));
  EXPECT_TRUE(top_n(logits, 0).empty());
  const std::vector<float> many = random_floats(10000, 5);
  std::vector<int32_t> sorted(10000);
  for (int32_t i = 0; i < 10000; ++i) sorted[i] = i;
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return many[a] > many[b]; });
  sorted.resize(20);
  EXPECT_EQ(top_n(many, 20), sorted);
}

}  // namespace
}  // namespace guildhall
