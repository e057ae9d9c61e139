// rmsnorm_test.cc: RMSNorm and the residual addition against their references; the row rule.
#include "kernels/rmsnorm.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

using RmsNorm = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, RmsNorm, testing::ValuesIn(available_isas()), isa_name);

// Squares and their sum are rounded in float: a relative error of at most (number of additions per lane +
// log2 lanes) * epsilon / 2 under the root, plus a few roundings. Divided by 4 lanes the worst case is H/4
// additions.
double tolerance(int64_t hidden) { return (static_cast<double>(hidden) / 4 + 8) * 1.2e-7; }

TEST_P(RmsNorm, MatchesRefAtOddSizes) {
  Team team({.num_threads = 3, .spin_ns = 0});
  for (int64_t hidden : {1, 3, 16, 17, 31, 64, 127, 1000, 7168}) {
    for (int64_t tokens : {0, 1, 5, 40}) {
      const int64_t stride = hidden + 3;
      const std::vector<float> x = random_floats(tokens * stride, 1, 3), w = random_floats(hidden, 2);
      std::vector<float> y(tokens * hidden, 9.0f), expected = y;
      const View2<const float> x_th(x.data(), tokens, hidden, stride);
      rmsnorm_cpu(team, x_th, w, 1e-6f, View2<float>(y.data(), tokens, hidden));
      rmsnorm_ref(x_th, w, 1e-6f, View2<float>(expected.data(), tokens, hidden));
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], tolerance(hidden) * std::abs(expected[i]) + 1e-12)
            << hidden << " " << i;
    }
  }
}

TEST_P(RmsNorm, WorksInPlaceAndEachRowAloneGivesTheSameBits) {
  constexpr int64_t kTokens = 37, kHidden = 1003;
  Team team({.num_threads = 3, .spin_ns = 0}), alone({.num_threads = 1});
  const std::vector<float> x = random_floats(kTokens * kHidden, 1), w = random_floats(kHidden, 2);
  std::vector<float> all = x, single = x;
  const View2<float> all_th(all.data(), kTokens, kHidden), single_th(single.data(), kTokens, kHidden);
  rmsnorm_cpu(team, all_th, w, 1e-5f, all_th);
  for (int64_t t = 0; t < kTokens; ++t) {
    const View2<float> row = single_th.sub_rows(t, 1);
    rmsnorm_cpu(alone, row, w, 1e-5f, row);
  }
  for (size_t i = 0; i < all.size(); ++i) ASSERT_TRUE(same_bits(all[i], single[i])) << i;
}

TEST_P(RmsNorm, AnAllZeroRowStaysZero) {
  Team team({.num_threads = 1});
  std::vector<float> x(20, 0.0f), w(20, 1.0f);
  const View2<float> x_th(x.data(), 1, 20);
  rmsnorm_cpu(team, x_th, w, 1e-6f, x_th);
  EXPECT_EQ(x, std::vector<float>(20, 0.0f));
}

TEST_P(RmsNorm, AdditionIsExact) {
  Team team({.num_threads = 3, .spin_ns = 0});
  for (int64_t hidden : {1, 17, 2048}) {
    const std::vector<float> y = random_floats(9 * hidden, 1);
    std::vector<float> x = random_floats(9 * hidden, 2), expected = x;
    add_cpu(team, View2<const float>(y.data(), 9, hidden), View2<float>(x.data(), 9, hidden));
    add_ref(View2<const float>(y.data(), 9, hidden), View2<float>(expected.data(), 9, hidden));
    EXPECT_EQ(x, expected);
  }
}

}  // namespace
}  // namespace guildhall
