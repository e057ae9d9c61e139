// fp8_test.cc: e4m3 with scales: fp8_ref against a table of the format, and every instruction set against it.
#include "kernels/fp8.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kQuietNan = std::nanf("");

struct Encoded {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

using To = void (*)(std::span<const float>, std::span<uint8_t>, std::span<float>);
using From = void (*)(std::span<const uint8_t>, std::span<const float>, std::span<float>);

Encoded encode(To to, const std::vector<float>& x) {
  Encoded out{std::vector<uint8_t>(x.size()),
              std::vector<float>(static_cast<size_t>(fp8_groups(static_cast<int64_t>(x.size()))))};
  to(x, out.codes, out.scales);
  return out;
}
std::vector<float> decode(From from, const Encoded& in) {
  std::vector<float> x(in.codes.size());
  from(in.codes, in.scales, x);
  return x;
}

// The format's 127 finite magnitudes, by its definition.
std::vector<float> magnitudes() {
  std::vector<float> out;
  for (int code = 0; code < 127; ++code)
    out.push_back(code < 8 ? static_cast<float>(code) * 0x1p-9f
                           : std::ldexp(1 + static_cast<float>(code % 8) / 8, code / 8 - 7));
  return out;
}

// Values and halves between them, with 448 in the group so that its scale is 1.
std::vector<float> probes() {
  std::vector<float> x;
  const std::vector<float> m = magnitudes();
  for (size_t i = 0; i + 1 < m.size(); ++i) {
    const float middle = (m[i] + m[i + 1]) / 2;
    for (const float v : {m[i], std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 999.0f)})
      for (const float s : {v, -v}) {
        if (x.size() % kFp8GroupSize == 0) x.push_back(448);
        x.push_back(s);
      }
  }
  return x;
}

std::vector<float> hostile(int64_t n) {
  const float odd[] = {kInf, -kInf, kQuietNan, -kQuietNan, 0, -0.0f, 1e-45f, -1e-38f, 3e38f, 1};
  std::vector<float> x;
  for (int64_t i = 0; i < n; ++i) x.push_back(odd[i * 7 % 10]);
  return x;
}

TEST(Fp8Ref, RoundsToTheNearestCodeTiesToEven) {
  const std::vector<float> x = probes(), m = magnitudes();
  const Encoded got = encode(to_fp8_ref, x);
  for (const float scale : got.scales) ASSERT_EQ(scale, 1);
  for (size_t i = 0; i < x.size(); ++i) {
    const float v = std::abs(x[i]);
    int best = 0;
    for (int code = 1; code < 127; ++code) {
      const float d = std::abs(m[static_cast<size_t>(code)] - v),
                  b = std::abs(m[static_cast<size_t>(best)] - v);
      if (d < b || (d == b && code % 2 == 0)) best = code;
    }
    ASSERT_EQ(got.codes[i], best | (std::signbit(x[i]) ? 0x80 : 0)) << x[i];
  }
}

TEST(Fp8Ref, TheLargestOfAGroupIsKeptWithinARounding) {
  const std::vector<float> x = random_floats(1000, 5, 37);
  const std::vector<float> back = decode(from_fp8_ref, encode(to_fp8_ref, x));
  for (size_t begin = 0; begin < x.size(); begin += kFp8GroupSize) {
    const size_t end = std::min(begin + kFp8GroupSize, x.size());
    float amax = 0;
    for (size_t i = begin; i < end; ++i) amax = std::max(amax, std::abs(x[i]));
    for (size_t i = begin; i < end; ++i) {
      // Half a step: 2^-4 of the value, or half of 2^-9 scales; and the roundings of scale and product.
      const float bound = std::max(std::abs(x[i]) / 16, amax / 448 / 1024) * (1 + 1e-6f);
      ASSERT_LE(std::abs(back[i] - x[i]), bound) << i;
      if (std::abs(x[i]) == amax) {
        ASSERT_NEAR(back[i], x[i], amax * 2e-7f);
      }
    }
  }
}

TEST(Fp8Ref, ZerosKeepTheirSignAndGroupsOfZerosAreZeros) {
  const Encoded got = encode(to_fp8_ref, {0, -0.0f, 0});
  EXPECT_EQ(got.codes, (std::vector<uint8_t>{0, 0x80, 0}));
  EXPECT_EQ(got.scales[0], 0x1p-126f);
  const std::vector<float> back = decode(from_fp8_ref, got);
  EXPECT_TRUE(same_bits(back[0], 0));
  EXPECT_TRUE(same_bits(back[1], -0.0f));
}

TEST(Fp8Ref, InfinitiesAndNaNsBecomeNaNAndLeaveTheScaleAlone) {
  const Encoded got = encode(to_fp8_ref, {kInf, 448, -kInf, kQuietNan, -1});
  EXPECT_EQ(got.scales[0], 1);
  EXPECT_EQ(got.codes, (std::vector<uint8_t>{0x7f, 0x7e, 0xff, 0x7f, 0xb8}));
  const std::vector<float> back = decode(from_fp8_ref, got);
  EXPECT_TRUE(std::isnan(back[0]) && std::isnan(back[2]) && std::isnan(back[3]));
  EXPECT_EQ(back[1], 448);
  EXPECT_EQ(back[4], -1);
  EXPECT_EQ(encode(to_fp8_ref, {kInf, kQuietNan}).scales[0], 0x1p-126f);
}

TEST(Fp8Ref, ExtremesNeitherOverflowNorVanish) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_NEAR(decode(from_fp8_ref, encode(to_fp8_ref, {largest, 1}))[0] / largest, 1, 1e-6);
  const float small = 448 * 0x1p-126f;
  EXPECT_EQ(decode(from_fp8_ref, encode(to_fp8_ref, {small}))[0], small);
  EXPECT_EQ(decode(from_fp8_ref, encode(to_fp8_ref, {0x1p-135f}))[0], 0x1p-135f);
}

using Fp8 = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Fp8, testing::ValuesIn(available_isas()), isa_name);

void expect_same_encoding(const std::vector<float>& x) {
  const Encoded got = encode(to_fp8_cpu, x), expected = encode(to_fp8_ref, x);
  ASSERT_EQ(got.codes, expected.codes);
  for (size_t g = 0; g < got.scales.size(); ++g) ASSERT_TRUE(same_bits(got.scales[g], expected.scales[g]));
}

TEST_P(Fp8, HasTheBytesOfRefAtOddSizes) {
  for (const int64_t n : {0, 1, 3, 15, 16, 17, 44, 127, 128, 129, 255, 257, 1000})
    for (const float scale : {1e-42f, 1e-38f, 1e-20f, 1.0f, 1e30f})
      expect_same_encoding(random_floats(n, 7, scale));
  expect_same_encoding(probes());
  for (const int64_t n : {1, 7, 130}) expect_same_encoding(hostile(n));
}

TEST_P(Fp8, DecodesEveryCodeToRefsBits) {
  Encoded in;
  for (int i = 0; i < 300; ++i) in.codes.push_back(static_cast<uint8_t>(i));
  in.scales = {1, 0x1p-126f, 3.7e30f};
  const std::vector<float> got = decode(from_fp8_cpu, in), expected = decode(from_fp8_ref, in);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << i;
    if (!std::isnan(expected[i])) {
      ASSERT_TRUE(same_bits(got[i], expected[i])) << i;
    }
  }
}

TEST_P(Fp8, TouchesNothingPastTheEnd) {
  for (int64_t n = 0; n <= 40; ++n) {
    const std::vector<float> x = random_floats(n, 3);
    std::vector<uint8_t> codes(static_cast<size_t>(n) + 1, 0x12);
    std::vector<float> scales(static_cast<size_t>(fp8_groups(n)));
    const std::span<uint8_t> inside = std::span(codes).first(static_cast<size_t>(n));
    to_fp8_cpu(x, inside, scales);
    EXPECT_EQ(codes.back(), 0x12);
    std::vector<float> back(static_cast<size_t>(n) + 1, 42.0f);
    from_fp8_cpu(inside, scales, std::span(back).first(static_cast<size_t>(n)));
    EXPECT_EQ(back.back(), 42.0f);
  }
}

}  // namespace
}  // namespace guildhall
