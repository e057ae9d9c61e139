// fp8_weight_test.cc: block-scaled weights by hand: which scale an element takes, and rounding to bf16.
#include "kernels/fp8_weight.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

constexpr uint8_t kOne = 0x38, kThree = 0x44, kMinusOne = 0xb8, kNan = 0x7f;

TEST(Fp8Weight, EachBlockOf128By128HasItsScale) {
  constexpr int64_t kRows = 130, kCols = 257;
  const std::vector<uint8_t> code(kRows * kCols, kThree);
  const std::vector<float> scale{1, 2, 4, 8, 16, 32};  // [2, 3]
  std::vector<bf16> w(code.size());
  const View2<bf16> w_nk(w.data(), kRows, kCols);
  dequantize_fp8_weight_ref(View2<const uint8_t>(code.data(), kRows, kCols),
                            View2<const float>(scale.data(), 2, 3), w_nk);
  EXPECT_EQ(to_float(w_nk(0, 0)), 3);
  EXPECT_EQ(to_float(w_nk(127, 127)), 3);
  EXPECT_EQ(to_float(w_nk(127, 128)), 6);
  EXPECT_EQ(to_float(w_nk(0, 256)), 12);
  EXPECT_EQ(to_float(w_nk(128, 0)), 24);
  EXPECT_EQ(to_float(w_nk(129, 256)), 96);
}

TEST(Fp8Weight, RoundsToBf16AndKeepsNan) {
  const std::vector<uint8_t> code{kOne, kMinusOne, kNan, 0x80 | kNan};
  const float scale = 1 + 0x1p-8f + 0x1p-20f;  // just above the middle of two bf16
  std::vector<bf16> w(code.size());
  dequantize_fp8_weight_ref(View2<const uint8_t>(code.data(), 1, 4), View2<const float>(&scale, 1, 1),
                            View2<bf16>(w.data(), 1, 4));
  EXPECT_EQ(to_float(w[0]), 1 + 0x1p-7f);
  EXPECT_EQ(to_float(w[1]), -1 - 0x1p-7f);
  EXPECT_TRUE(std::isnan(to_float(w[2])) && !std::signbit(to_float(w[2])));
  EXPECT_TRUE(std::isnan(to_float(w[3])) && std::signbit(to_float(w[3])));
}

}  // namespace
}  // namespace guildhall
