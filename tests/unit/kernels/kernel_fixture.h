// kernel_fixture.h: what the kernel tests share: every instruction set of this machine, seeded data,
// tolerances.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/fp8.h"
#include "kernels/isa.h"
#include "kernels/view.h"

namespace guildhall {

inline std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i <= static_cast<int>(detect_isa()); ++i) isas.push_back(static_cast<Isa>(i));
  return isas;
}

// Puts an instruction set in use for the length of a test.
class IsaScope {
 public:
  explicit IsaScope(Isa isa) : before_(current_isa()) { set_isa(isa); }
  ~IsaScope() { set_isa(before_); }
  IsaScope(const IsaScope&) = delete;
  IsaScope& operator=(const IsaScope&) = delete;

 private:
  Isa before_;
};

// The body of a suite INSTANTIATE_TEST_SUITE_P(Isa, Suite, testing::ValuesIn(available_isas()), isa_name).
class IsaTest : public testing::TestWithParam<Isa> {
  IsaScope scope_{GetParam()};
};
inline std::string isa_name(const testing::TestParamInfo<Isa>& info) {
  return std::string(to_string(info.param));
}

inline std::vector<float> random_floats(int64_t n, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(generator);
  return x;
}

// A weight matrix that owns its elements, in any dtype; `f32` holds what they are worth.
struct OwnedWeight {
  std::vector<float> f32;
  std::vector<bf16> half;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  WeightView view;

  OwnedWeight(int64_t rows, int64_t cols, DType dtype, uint32_t seed, float scale = 1)
      : f32(random_floats(rows * cols, seed, scale)) {
    view = {f32.data(), dtype, rows, cols};
    if (dtype == DType::f32) return;
    if (dtype == DType::e4m3)
      quantise(rows, cols, scale);
    else
      round();
  }
  OwnedWeight(const OwnedWeight&) = delete;
  OwnedWeight(OwnedWeight&&) = default;  // the vectors' memory, and so the view, stays valid

 private:
  void round() {
    for (float& v : f32) {
      half.push_back(to_bf16(v));
      v = to_float(half.back());
    }
    view.data = half.data();
  }
  // Scales differ from block to block; what pads their rows is NaN, so that reading it shows.
  void quantise(int64_t rows, int64_t cols, float scale) {
    const int64_t stride = fp8_scale_stride(cols);
    scales.assign(static_cast<size_t>(fp8_blocks(rows) * stride), std::nanf(""));
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t n = i / cols / kFp8BlockSize, k = i % cols / kFp8BlockSize;
      float& block_scale = scales[static_cast<size_t>(n * stride + k)];
      block_scale = scale * 0x1p-5f * (1 + 0.3f * static_cast<float>((n + 2 * k) % 4));
      // In a group with 448 the scale is 1, and a code its value's.
      const float group[2] = {448, f32[static_cast<size_t>(i)] / block_scale};
      uint8_t code[2];
      float one;
      to_fp8_ref(group, code, {&one, 1});
      codes.push_back(code[1]);
      from_fp8_ref({&codes.back(), 1}, {&block_scale, 1}, {&f32[static_cast<size_t>(i)], 1});
    }
    view.data = codes.data();
    view.scale_bb = scales.data();
  }
};

inline bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

}  // namespace guildhall
