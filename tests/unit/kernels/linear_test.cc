// linear_test.cc: linear against its reference at odd sizes, and the row rule: the same bits for a row
// whatever batch, part of W, stride or team it is computed with.
#include "kernels/linear.h"

#include <limits>
#include <tuple>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon() / 2;  // one rounding to nearest

// The reference rounds once. A lane of the kernel rounds at most K/4 + 1 times (4 lanes is the fewest, and
// without fma each step rounds twice), then 4 times to fold the lanes, add bias and y: each error is at most
// epsilon times the sum of |x w|.
float tolerance(int64_t k, float sum_of_magnitudes) {
  return kEpsilon * static_cast<float>(2 * (k / 4 + 1) + 6) * sum_of_magnitudes;
}

float magnitudes(View2<const float> x, const OwnedWeight& w, int64_t t, int64_t n) {
  float sum = 0;
  for (int64_t k = 0; k < x.cols; ++k)
    sum += std::abs(x(t, k) * w.f32[static_cast<size_t>(n * w.view.cols + k)]);
  return sum;
}

using LinearCase = std::tuple<Isa, DType>;
class Linear : public testing::TestWithParam<LinearCase> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }

 private:
  IsaScope scope_{std::get<0>(GetParam())};
};
std::string case_name(const testing::TestParamInfo<LinearCase>& info) {
  return std::string(to_string(std::get<0>(info.param))) + "_w_" +
         std::string(to_string(std::get<1>(info.param)));
}
INSTANTIATE_TEST_SUITE_P(Isa, Linear,
                         testing::Combine(testing::ValuesIn(available_isas()),
                                          testing::Values(DType::f32, DType::bf16, DType::e4m3)),
                         case_name);

class LinearHeads : public Linear {};
INSTANTIATE_TEST_SUITE_P(Isa, LinearHeads,
                         testing::Combine(testing::ValuesIn(available_isas()),
                                          testing::Values(DType::f32, DType::bf16)),
                         case_name);

struct Shape {
  int64_t t, n, k;
};

TEST_P(Linear, MatchesRefAtOddSizes) {
  Team team({.num_threads = 2});
  const std::vector<Shape> shapes = {
      {0, 5, 3},      {1, 1, 1},    {1, 7, 3},        {2, 5, 17},   {3, 9, 100}, {4, 4, 16},
      {5, 31, 513},   {6, 66, 64},  {7, 3, 33},       {8, 130, 31}, {13, 67, 5}, {25, 2, 7},
      {33, 65, 1025}, {97, 70, 47}, {200, 129, 2049}, {3, 0, 8},    {4, 6, 0}};
  for (const auto& [num_t, num_n, k] : shapes) {
    for (int variant = 0; variant < 4; ++variant) {
      const bool with_bias = (variant & 1) != 0, accumulate = (variant & 2) != 0;
      if (variant != 0 && num_t > 50) continue;
      const std::vector<float> x = random_floats(num_t * k, 1), bias = random_floats(num_n, 2);
      const OwnedWeight w(num_n, k, dtype(), 3);
      std::vector<float> y = random_floats(num_t * num_n, 4), expected = y;
      const std::vector<float> before = y;
      const LinearOptions options = {
          .bias_n = with_bias ? std::span<const float>(bias) : std::span<const float>(),
          .accumulate = accumulate};
      const View2<const float> x_tk(x.data(), num_t, k);
      linear_ref(x_tk, w.view, options, {expected.data(), num_t, num_n});
      linear_cpu(team, x_tk, w.view, options, {y.data(), num_t, num_n});
      for (int64_t t = 0; t < num_t; ++t) {
        for (int64_t n = 0; n < num_n; ++n) {
          const size_t i = static_cast<size_t>(t * num_n + n);
          const float scale = magnitudes(x_tk, w, t, n) + std::abs(bias[n]) + std::abs(before[i]);
          ASSERT_NEAR(y[i], expected[i], tolerance(k, scale))
              << "T=" << num_t << " N=" << num_n << " K=" << k << " t=" << t << " n=" << n
              << " variant=" << variant;
        }
      }
    }
  }
}

TEST_P(Linear, ARowsBitsDoNotDependOnItsBatchOrTheTeam) {
  constexpr int64_t kMaxT = 33, kN = 71;
  Team alone({.num_threads = 1}), two({.num_threads = 2}), five({.num_threads = 5, .spin_ns = 0});
  for (int64_t k : {1, 3, 16, 17, 100, 513, 1024, 1040, 2065}) {
    const std::vector<float> x = random_floats(kMaxT * k, 7);
    const OwnedWeight w(kN, k, dtype(), 8);
    std::vector<float> expected(kMaxT * kN), y(kMaxT * kN);
    for (int64_t t = 0; t < kMaxT; ++t)
      linear_cpu(alone, {x.data() + t * k, 1, k}, w.view, {}, {expected.data() + t * kN, 1, kN});
    for (int64_t num_t = 1; num_t <= kMaxT; ++num_t) {
      for (Team* team : {&alone, &two, &five}) {
        std::fill(y.begin(), y.end(), -1.0f);
        linear_cpu(*team, {x.data(), num_t, k}, w.view, {}, {y.data(), num_t, kN});
        for (int64_t i = 0; i < num_t * kN; ++i)
          ASSERT_TRUE(same_bits(y[i], expected[i])) << "T=" << num_t << " K=" << k << " t=" << i / kN
                                                    << " n=" << i % kN << " threads=" << team->num_threads();
      }
    }
  }
}

TEST_P(Linear, ARowsBitsAreThoseOfLargeBatchesToo) {
  constexpr int64_t kT = 421, kN = 133, kK = 1100;
  Team alone({.num_threads = 1}), three({.num_threads = 3});
  const std::vector<float> x = random_floats(kT * kK, 9);
  const OwnedWeight w(kN, kK, dtype(), 10);
  std::vector<float> one_by_one(kT * kN), together(kT * kN), shared(kT * kN);
  for (int64_t t = 0; t < kT; ++t)
    linear_cpu(alone, {x.data() + t * kK, 1, kK}, w.view, {}, {one_by_one.data() + t * kN, 1, kN});
  linear_cpu(alone, {x.data(), kT, kK}, w.view, {}, {together.data(), kT, kN});
  linear_cpu(three, {x.data(), kT, kK}, w.view, {}, {shared.data(), kT, kN});
  for (size_t i = 0; i < together.size(); ++i) {
    ASSERT_TRUE(same_bits(one_by_one[i], together[i])) << i;
    ASSERT_TRUE(same_bits(one_by_one[i], shared[i])) << i;
  }
}

TEST_P(Linear, StridedViewsAndPartsOfWGiveTheSameBitsAndTouchNothingElse) {
  constexpr int64_t kN = 149, kK = 277, kXStride = 283, kYStride = 157;
  Team team({.num_threads = 2});
  for (int64_t num_t : {1, 5, 20}) {
    const std::vector<float> x = random_floats(num_t * kXStride, 11), bias = random_floats(kN, 12);
    const OwnedWeight w(kN, kK, dtype(), 13);
    std::vector<float> dense(static_cast<size_t>(num_t * kN)),
        strided(static_cast<size_t>(num_t * kYStride), 5.0f);
    const View2<const float> x_tk(x.data() + 2, num_t, kK, kXStride);
    linear_cpu(team, x_tk, w.view, {.bias_n = bias}, {dense.data(), num_t, kN});
    const View2<float> y_tn(strided.data(), num_t, kN, kYStride);
    constexpr int64_t kCut = 128;  // where a block of fp8 ends
    const std::span<const float> bias_n = bias;
    linear_cpu(team, x_tk, w.view.sub_rows(0, kCut), {.bias_n = bias_n.first(kCut)}, y_tn.sub_cols(0, kCut));
    linear_cpu(team, x_tk, w.view.sub_rows(kCut, kN - kCut), {.bias_n = bias_n.subspan(kCut)},
               y_tn.sub_cols(kCut, kN - kCut));
    for (int64_t t = 0; t < num_t; ++t) {
      for (int64_t n = 0; n < kN; ++n) ASSERT_TRUE(same_bits(y_tn(t, n), dense[t * kN + n])) << t << " " << n;
      for (int64_t n = kN; n < kYStride; ++n) ASSERT_EQ(strided[t * kYStride + n], 5.0f);
    }
  }
}

TEST_P(Linear, NotANumberAndInfinityStayInTheirRow) {
  constexpr int64_t kN = 6, kK = 35;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                  kInf = std::numeric_limits<float>::infinity();
  Team team({.num_threads = 1});
  for (int64_t num_t : {4, 20}) {
    std::vector<float> x(static_cast<size_t>(num_t * kK), 1.0f), y(static_cast<size_t>(num_t * kN));
    OwnedWeight w(kN, kK, dtype(), 14);
    for (int64_t i = 0; i < kN * kK; ++i) {
      w.f32[i] = 0.5f;
      if (dtype() == DType::bf16) w.half[i] = to_bf16(0.5f);
      if (dtype() == DType::e4m3) w.codes[i] = 0x38;  // 1
    }
    std::ranges::fill(w.scales, 0.5f);
    x[1 * kK + 34] = kNan;
    x[2 * kK + 3] = kInf;
    linear_cpu(team, {x.data(), num_t, kK}, w.view, {}, {y.data(), num_t, kN});
    for (int64_t n = 0; n < kN; ++n) {
      EXPECT_EQ(y[0 * kN + n], 17.5f);
      EXPECT_TRUE(std::isnan(y[1 * kN + n]));
      EXPECT_EQ(y[2 * kN + n], kInf);
      EXPECT_EQ(y[3 * kN + n], 17.5f);
    }
  }
}

TEST_P(LinearHeads, EachHeadIsItsOwnLinear) {
  Team team({.num_threads = 2});
  constexpr int64_t kHeads = 3, kK = 19, kN = 10, kXHead = 24, kYHead = 13;
  for (int64_t num_t : {0, 1, 4, 27}) {
    const std::vector<float> x = random_floats(num_t * kHeads * kXHead, 15);
    const OwnedWeight w(kHeads * kN, kK, dtype(), 16);
    std::vector<float> y(static_cast<size_t>(num_t * kHeads * kYHead), 5.0f), ref = y;
    const View3<const float> x_thk(x.data(), num_t, kHeads, kK, kHeads * kXHead, kXHead);
    const View3<float> y_thn(y.data(), num_t, kHeads, kN, kHeads * kYHead, kYHead);
    linear_heads_cpu(team, x_thk, w.view, y_thn);
    linear_heads_ref(x_thk, w.view, {ref.data(), num_t, kHeads, kN, kHeads * kYHead, kYHead});
    for (int64_t h = 0; h < kHeads; ++h) {
      const View2<const float> x_tk(x_thk.data + h * kXHead, num_t, kK, kHeads * kXHead);
      std::vector<float> alone(static_cast<size_t>(num_t * kN));
      linear_cpu(team, x_tk, w.view.sub_rows(h * kN, kN), {}, {alone.data(), num_t, kN});
      for (int64_t t = 0; t < num_t; ++t) {
        for (int64_t n = 0; n < kN; ++n) {
          ASSERT_TRUE(same_bits(y_thn.at(t, h)[n], alone[t * kN + n])) << h << " " << t << " " << n;
          const size_t i = static_cast<size_t>((t * kHeads + h) * kYHead + n);
          ASSERT_NEAR(y[i], ref[i], tolerance(kK, magnitudes(x_tk, w, t, h * kN + n)));
        }
      }
    }
    for (size_t i = 0; i < y.size(); ++i) {
      if (static_cast<int64_t>(i) % kYHead >= kN) {
        ASSERT_EQ(y[i], 5.0f);
      }
    }
  }
}

TEST(LinearElementType, Bf16WeightsGiveTheBitsOfTheSameValuesInF32) {
  Team team({.num_threads = 1});
  for (Isa isa : available_isas()) {
    IsaScope scope(isa);
    constexpr int64_t kN = 9, kK = 1051;
    const OwnedWeight half(kN, kK, DType::bf16, 17);
    std::vector<float> widened;
    for (bf16 v : half.half) widened.push_back(to_float(v));
    for (int64_t num_t : {1, 2, 30}) {
      const std::vector<float> x = random_floats(num_t * kK, 18);
      std::vector<float> a(static_cast<size_t>(num_t * kN)), b = a;
      linear_cpu(team, {x.data(), num_t, kK}, half.view, {}, {a.data(), num_t, kN});
      linear_cpu(team, {x.data(), num_t, kK}, {widened.data(), DType::f32, kN, kK}, {},
                 {b.data(), num_t, kN});
      for (size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(same_bits(a[i], b[i])) << to_string(isa) << " " << i;
    }
  }
}

TEST(LinearElementType, CodesGiveTheBitsOfTheirProductsWithTheScalesInF32) {
  Team team({.num_threads = 1});
  for (Isa isa : available_isas()) {
    IsaScope scope(isa);
    constexpr int64_t kN = 263, kK = 1051;
    const OwnedWeight codes(kN, kK, DType::e4m3, 19);
    for (int64_t num_t : {1, 2, 30}) {
      const std::vector<float> x = random_floats(num_t * kK, 20);
      std::vector<float> a(static_cast<size_t>(num_t * kN)), b = a;
      linear_cpu(team, {x.data(), num_t, kK}, codes.view, {}, {a.data(), num_t, kN});
      linear_cpu(team, {x.data(), num_t, kK}, {codes.f32.data(), DType::f32, kN, kK}, {},
                 {b.data(), num_t, kN});
      for (size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(same_bits(a[i], b[i])) << to_string(isa) << " " << i;
    }
  }
}

}  // namespace
}  // namespace guildhall
