// fp8_ref.cc: e4m3 with scales, one element at a time, from the definition of the format.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/fp8.h"

namespace guildhall {
namespace {

constexpr uint8_t kNan = 0x7f;
constexpr float kLargest = 448;

// Nearest e4m3 of a finite value, ties to the even mantissa. nearbyint rounds ties to even.
uint8_t to_e4m3(float x) {
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const float magnitude = std::min(std::abs(x), kLargest);
  int exponent = magnitude > 0 ? std::ilogb(magnitude) : -6;
  exponent = std::max(exponent, -6);  // below 2^-6 the step stays that of 2^-6
  auto eighths = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  if (eighths == 16) eighths = 8, ++exponent;
  const int code = eighths < 8 ? eighths : (exponent + 7) * 8 + (eighths - 8);
  return static_cast<uint8_t>(sign | code);
}

float from_e4m3(uint8_t code) {
  const float sign = (code & 0x80) != 0 ? -1.0f : 1.0f;
  if ((code & 0x7f) == kNan) return std::copysign(std::nanf(""), sign);
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                               : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10));
}

}  // namespace

void to_fp8_ref(std::span<const float> x_n, std::span<uint8_t> code_n, std::span<float> scale_g) {
  GH_CHECK(code_n.size() == x_n.size() &&
           static_cast<int64_t>(scale_g.size()) == fp8_groups(static_cast<int64_t>(x_n.size())));
  for (size_t g = 0; g < scale_g.size(); ++g) {
    const size_t begin = g * kFp8GroupSize, end = std::min(begin + kFp8GroupSize, x_n.size());
    float amax = 0;
    for (size_t i = begin; i < end; ++i)
      if (std::isfinite(x_n[i])) amax = std::max(amax, std::abs(x_n[i]));
    scale_g[g] = std::max(amax / kLargest, 0x1p-126f);
    const float inverse = 1 / scale_g[g];
    for (size_t i = begin; i < end; ++i)
      code_n[i] = std::isfinite(x_n[i]) ? to_e4m3(x_n[i] * inverse)
                                        : static_cast<uint8_t>(kNan | (std::signbit(x_n[i]) ? 0x80 : 0));
  }
}

void from_fp8_ref(std::span<const uint8_t> code_n, std::span<const float> scale_g, std::span<float> x_n) {
  GH_CHECK(code_n.size() == x_n.size() &&
           static_cast<int64_t>(scale_g.size()) == fp8_groups(static_cast<int64_t>(x_n.size())));
  for (size_t i = 0; i < x_n.size(); ++i) x_n[i] = from_e4m3(code_n[i]) * scale_g[i / kFp8GroupSize];
}

}  // namespace guildhall
