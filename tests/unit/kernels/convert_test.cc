// convert_test.cc: fp32 <-> bf16 gives convert_ref's bits in every instruction set, every value and length.
#include "kernels/convert.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

using Convert = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Convert, testing::ValuesIn(available_isas()), isa_name);

TEST_P(Convert, WidensEveryBf16Exactly) {
  std::vector<bf16> x(65536);
  for (uint32_t i = 0; i < 65536; ++i) x[i].bits = static_cast<uint16_t>(i);
  std::vector<float> y(x.size()), expected(x.size());
  from_bf16_cpu(x, y.data());
  from_bf16_ref(x, expected.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(same_bits(y[i], expected[i])) << i;
}

TEST_P(Convert, RoundsToNearestEvenIncludingDenormalsInfinitiesAndNaNs) {
  std::vector<float> x;
  for (uint32_t high = 0; high < 65536; high += 7)
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      x.push_back(std::bit_cast<float>(high << 16 | low));
  std::vector<bf16> y(x.size()), expected(x.size());
  to_bf16_cpu(x, y.data());
  to_bf16_ref(x, expected.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i].bits, expected[i].bits) << x[i];
}

TEST_P(Convert, TouchesNothingPastTheEnd) {
  for (int64_t n = 0; n <= 40; ++n) {
    const std::vector<float> x = random_floats(n, 3);
    std::vector<bf16> y(static_cast<size_t>(n) + 1, bf16{0x1234});
    to_bf16_cpu(x, y.data());
    EXPECT_EQ(y.back().bits, 0x1234);
    std::vector<float> back(static_cast<size_t>(n) + 1, 42.0f);
    from_bf16_cpu(std::span(y).first(static_cast<size_t>(n)), back.data());
    EXPECT_EQ(back.back(), 42.0f);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(back[i], to_float(to_bf16(x[i])));
  }
}

}  // namespace
}  // namespace guildhall
