// swiglu_test.cc: SwiGLU against its reference: over the whole range of exp, at odd sizes, with NaN and
// infinity.
#include "kernels/swiglu.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

using Swiglu = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Swiglu, testing::ValuesIn(available_isas()), isa_name);

TEST_P(Swiglu, MatchesRefAtOddSizes) {
  Team team({.num_threads = 2});
  for (int64_t num_t : {0, 1, 3, 40}) {
    for (int64_t num_f : {1, 3, 8, 17, 100, 513, 1111}) {
      const std::vector<float> gate_up = random_floats(num_t * 2 * num_f, 1, 8);
      std::vector<float> y(static_cast<size_t>(num_t * num_f)), expected = y;
      swiglu_cpu(team, {gate_up.data(), num_t, 2 * num_f}, {y.data(), num_t, num_f});
      swiglu_ref({gate_up.data(), num_t, 2 * num_f}, {expected.data(), num_t, num_f});
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], 1e-6f * std::abs(expected[i]) + 1e-37f) << num_t << "x" << num_f;
    }
  }
}

TEST_P(Swiglu, IsAccurateToAMillionthOverTheWholeRange) {
  Team team({.num_threads = 1});
  std::vector<float> gate_up;
  for (float gate = -86; gate < 100; gate += 0.0137f) gate_up.push_back(gate);
  const int64_t n = static_cast<int64_t>(gate_up.size());
  gate_up.resize(static_cast<size_t>(2 * n), 1.0f);
  std::vector<float> y(static_cast<size_t>(n)), expected = y;
  swiglu_cpu(team, {gate_up.data(), 1, 2 * n}, {y.data(), 1, n});
  swiglu_ref({gate_up.data(), 1, 2 * n}, {expected.data(), 1, n});
  for (int64_t i = 0; i < n; ++i)
    ASSERT_NEAR(y[i], expected[i], 1e-6f * std::abs(expected[i])) << "gate=" << gate_up[i];
}

TEST_P(Swiglu, ExtremesAreSane) {
  Team team({.num_threads = 1});
  constexpr float kInf = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gate_up = {-200, 200, kInf, kNan, 1, 0, /* up: */ 3, 3, 2, 1, kNan, 5};
  std::vector<float> y(6);
  swiglu_cpu(team, {gate_up.data(), 1, 12}, {y.data(), 1, 6});
  EXPECT_NEAR(y[0], 0, 1e-30);
  EXPECT_EQ(y[1], 600);
  EXPECT_EQ(y[2], kInf);
  EXPECT_TRUE(std::isnan(y[3]));
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(y[5], 0);
}

}  // namespace
}  // namespace guildhall
