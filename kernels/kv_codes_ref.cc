// kv_codes_ref.cc: rows of the KV cache in 8 bits, one element at a time, from the definition.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/fp8.h"
#include "kernels/kv_codes.h"

namespace guildhall {
namespace {

static_assert(kKvGroup == kFp8GroupSize);
constexpr float kLargest = 127;

float to_int8(std::span<const float> x, std::span<uint8_t> code) {
  float amax = 0;
  for (const float v : x) amax = std::max(amax, std::abs(v));
  const float scale = std::max(amax / kLargest, 0x1p-126f), inverse = 1 / scale;
  for (size_t i = 0; i < x.size(); ++i)
    code[i] = static_cast<uint8_t>(
        static_cast<int8_t>(std::nearbyint(std::clamp(x[i] * inverse, -kLargest, kLargest))));
  return scale;
}

}  // namespace

void to_kv_codes_ref(DType dtype, std::span<const float> x_n, std::span<uint8_t> code_n,
                     std::span<float> scale_g) {
  GH_CHECK(is_kv_codes(dtype) && code_n.size() == x_n.size());
  GH_CHECK(static_cast<int64_t>(scale_g.size()) == fp8_groups(static_cast<int64_t>(x_n.size())));
  for (size_t g = 0; g < scale_g.size(); ++g) {
    const size_t begin = g * kKvGroup, n = std::min<size_t>(kKvGroup, x_n.size() - begin);
    const std::span<const float> x = x_n.subspan(begin, n);
    const std::span<uint8_t> code = code_n.subspan(begin, n);
    if (!std::ranges::all_of(x, [](float v) { return std::isfinite(v); })) {
      scale_g[g] = std::numeric_limits<float>::quiet_NaN();
      std::ranges::fill(code, uint8_t{0});
    } else if (dtype == DType::e4m3) {
      to_fp8_ref(x, code, scale_g.subspan(g, 1));
    } else {
      scale_g[g] = to_int8(x, code);
    }
  }
}

void from_kv_codes_ref(DType dtype, std::span<const uint8_t> code_n, std::span<const float> scale_g,
                       std::span<float> x_n) {
  if (dtype == DType::e4m3) return from_fp8_ref(code_n, scale_g, x_n);
  GH_CHECK(dtype == DType::int8 && code_n.size() == x_n.size());
  for (size_t i = 0; i < x_n.size(); ++i)
    x_n[i] = static_cast<float>(static_cast<int8_t>(code_n[i])) * scale_g[i / kKvGroup];
}

}  // namespace guildhall
