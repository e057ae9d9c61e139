// combine_test.cc: the weighted sum has combine_ref's bits in every instruction set.
#include "kernels/combine.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

using Combine = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Combine, testing::ValuesIn(available_isas()), isa_name);

TEST_P(Combine, HasTheBitsOfRefWhereverTheRowsLie) {
  for (int64_t hidden : {1, 5, 16, 63, 64, 65, 257}) {
    for (int64_t top_k : {1, 2, 8}) {
      constexpr int64_t kTokens = 9;
      const int64_t num_rows = kTokens * top_k;
      const std::vector<float> rows = random_floats(num_rows * hidden, 1);
      const std::vector<float> weight = random_floats(num_rows, 2);
      std::vector<int32_t> index(num_rows);
      for (int64_t i = 0; i < num_rows; ++i) index[i] = static_cast<int32_t>((i * 7 + 3) % num_rows);
      index[1] = -1;
      const std::vector<float> before = random_floats(kTokens * hidden, 3);
      std::vector<float> y = before, expected = before;
      const View2<const float> rows_ph(rows.data(), num_rows, hidden);
      const View2<const int32_t> index_tk(index.data(), kTokens, top_k);
      const View2<const float> weight_tk(weight.data(), kTokens, top_k);
      combine_cpu(rows_ph, index_tk, weight_tk, View2<float>(y.data(), kTokens, hidden));
      combine_ref(rows_ph, index_tk, weight_tk, View2<float>(expected.data(), kTokens, hidden));
      for (size_t i = 0; i < y.size(); ++i) ASSERT_TRUE(same_bits(y[i], expected[i])) << hidden << " " << i;
    }
  }
}

TEST_P(Combine, AddsToWhatIsThereAndPassesOverMissingRows) {
  const std::vector<float> rows = {1, 2, 10, 20};
  const std::vector<int32_t> index = {1, 0, -1, -1};
  const std::vector<float> weight = {0.5f, 2, 3, 4};
  std::vector<float> y = {100, 200, 300, 400};
  combine_cpu(View2<const float>(rows.data(), 2, 2), View2<const int32_t>(index.data(), 2, 2),
              View2<const float>(weight.data(), 2, 2), View2<float>(y.data(), 2, 2));
  EXPECT_EQ(y, (std::vector<float>{107, 214, 300, 400}));
}

}  // namespace
}  // namespace guildhall
