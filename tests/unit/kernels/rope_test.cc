// rope_test.cc: frequencies under each scaling rule against worked values; rotations against the reference.
#include "kernels/rope.h"

#include <numbers>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

// The first index whose frequency YaRN changes, and the first it slows by the whole factor.
struct Ramp {
  int64_t first_changed, first_full;
};
Ramp ramp_of(const RopeParams& p) {
  RopeParams plain = p;
  plain.scaling = RopeScaling::none;
  const std::vector<double> before = rope_inverse_frequencies(plain), after = rope_inverse_frequencies(p);
  Ramp ramp{-1, -1};
  for (size_t i = 0; i < before.size(); ++i) {
    const double ratio = after[i] / before[i];
    if (ratio < 1 - 1e-9 && ramp.first_changed < 0) ramp.first_changed = static_cast<int64_t>(i);
    if (ratio < 1 / p.factor + 1e-9 && ramp.first_full < 0) ramp.first_full = static_cast<int64_t>(i);
  }
  return ramp;
}

TEST(RopeFrequencies, PlainAreGeometric) {
  const std::vector<double> inverse = rope_inverse_frequencies({.dim = 8, .theta = 10000});
  ASSERT_EQ(inverse.size(), 4u);
  EXPECT_DOUBLE_EQ(inverse[0], 1);
  EXPECT_NEAR(inverse[1], 0.1, 1e-15);
  EXPECT_NEAR(inverse[3], 0.001, 1e-17);
}

TEST(RopeFrequencies, LinearDividesByTheFactor) {
  const std::vector<double> inverse =
      rope_inverse_frequencies({.dim = 4, .theta = 10000, .scaling = RopeScaling::linear, .factor = 4});
  EXPECT_DOUBLE_EQ(inverse[0], 0.25);
  EXPECT_NEAR(inverse[1], 0.0025, 1e-17);
}

// DeepSeek-V2-Lite and V3: ramp from 10 to 23.
TEST(RopeFrequencies, YarnRampOfDeepSeek) {
  const RopeParams p{
      .dim = 64, .theta = 10000, .scaling = RopeScaling::yarn, .factor = 40, .original_max_position = 4096};
  const Ramp ramp = ramp_of(p);
  EXPECT_EQ(ramp.first_changed, 11);
  EXPECT_EQ(ramp.first_full, 23);
  const double theta_15 = std::pow(10000.0, -30.0 / 64), r = 5.0 / 13;
  EXPECT_NEAR(rope_inverse_frequencies(p)[15], theta_15 * (1 - r) + theta_15 / 40 * r, 1e-15);
}

// Kimi-K2: theta 50000, both betas 1: ramp from 19 to 20.
TEST(RopeFrequencies, YarnRampOfKimi) {
  const RopeParams p{.dim = 64,
                     .theta = 50000,
                     .scaling = RopeScaling::yarn,
                     .factor = 32,
                     .original_max_position = 4096,
                     .beta_fast = 1,
                     .beta_slow = 1};
  const Ramp ramp = ramp_of(p);
  EXPECT_EQ(ramp.first_changed, 20);
  EXPECT_EQ(ramp.first_full, 20);
}

// gpt-oss: the ramp's ends 8.0928 and 17.3980 are not rounded.
TEST(RopeFrequencies, YarnRampWithoutTruncation) {
  const RopeParams p{.dim = 64,
                     .theta = 150000,
                     .scaling = RopeScaling::yarn,
                     .factor = 32,
                     .original_max_position = 4096,
                     .truncate = false};
  const std::vector<double> inverse = rope_inverse_frequencies(p);
  const double ramp = (12 - 8.0928) / (17.3980 - 8.0928), theta_12 = std::pow(150000.0, -24.0 / 64);
  EXPECT_NEAR(inverse[12], theta_12 * (1 - ramp) + theta_12 / 32 * ramp, theta_12 * 1e-5);
  EXPECT_EQ(ramp_of(p).first_changed, 9);
  EXPECT_EQ(ramp_of(p).first_full, 18);
}

TEST(RopeFrequencies, Llama3KeepsShortWavesAndSlowsLongOnes) {
  const RopeParams p{.dim = 128,
                     .theta = 500000,
                     .scaling = RopeScaling::llama3,
                     .factor = 8,
                     .original_max_position = 8192,
                     .low_freq_factor = 1,
                     .high_freq_factor = 4};
  RopeParams plain = p;
  plain.scaling = RopeScaling::none;
  const std::vector<double> before = rope_inverse_frequencies(plain), after = rope_inverse_frequencies(p);
  int between = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / before[i];
    if (wavelength < 2048) {
      EXPECT_EQ(after[i], before[i]);
    } else if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(after[i], before[i] / 8);
    } else {
      const double t = (8192 / wavelength - 1) / 3;
      EXPECT_NEAR(after[i], before[i] * ((1 - t) / 8 + t), before[i] * 1e-12);
      ++between;
    }
  }
  EXPECT_GT(between, 2);
}

TEST(RopeTableTest, HoldsCosAndSinTimesTheAttentionFactorAtEveryPosition) {
  const RopeTable table = make_rope_table({.dim = 4,
                                           .theta = 100,
                                           .scaling = RopeScaling::yarn,
                                           .factor = 1,
                                           .original_max_position = 64,
                                           .attention_factor = 1.25},
                                          50);
  EXPECT_EQ(table.cos_pd.size(), 100u);
  EXPECT_FLOAT_EQ(table.cos_pd[0], 1.25f);
  EXPECT_FLOAT_EQ(table.sin_pd[0], 0.0f);
  EXPECT_FLOAT_EQ(table.cos_pd[2 * 49 + 1], static_cast<float>(1.25 * std::cos(4.9)));
  EXPECT_FLOAT_EQ(table.sin_pd[2 * 49 + 1], static_cast<float>(1.25 * std::sin(4.9)));
}

TEST(RopePairingTest, HandRotation) {
  RopeTable table{4, 1, {0.0f, 1.0f}, {1.0f, 0.0f}};  // pair 0 by 90 degrees, pair 1 not at all
  const std::vector<int32_t> position = {0};
  std::vector<float> half = {1, 2, 3, 4}, interleaved = half;
  rope_ref(table, RopePairing::half, position, View3<float>(half.data(), 1, 1, 4));
  rope_ref(table, RopePairing::interleaved, position, View3<float>(interleaved.data(), 1, 1, 4));
  EXPECT_EQ(half, (std::vector<float>{-3, 2, 1, 4}));
  EXPECT_EQ(interleaved, (std::vector<float>{-2, 1, 3, 4}));
}

using Rope = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Rope, testing::ValuesIn(available_isas()), isa_name);

TEST_P(Rope, HasTheBitsOfRefInStridedViews) {
  Team team({.num_threads = 3, .spin_ns = 0});
  for (RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
    for (int64_t dim : {2, 6, 14, 32, 64, 128}) {
      constexpr int64_t kTokens = 21, kHeads = 5;
      const RopeTable table = make_rope_table({.dim = dim}, 100);
      std::vector<int32_t> positions(kTokens);
      for (int64_t t = 0; t < kTokens; ++t) positions[t] = static_cast<int32_t>((t * 37) % 100);
      // The rope part of [nope | rope] query heads: other elements of the row must not change.
      const int64_t head_dim = dim + 3;
      std::vector<float> x = random_floats(kTokens * kHeads * head_dim, 1), expected = x;
      const auto rope_part = [&](std::vector<float>& v) {
        return View3<float>(v.data(), kTokens, kHeads, head_dim).sub2(3, dim);
      };
      rope_cpu(team, table, pairing, positions, rope_part(x));
      rope_ref(table, pairing, positions, rope_part(expected));
      for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(same_bits(x[i], expected[i])) << dim << " " << i;
    }
  }
}

}  // namespace
}  // namespace guildhall
