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

// A weight matrix that owns its elements, in either dtype.
struct OwnedWeight {
  std::vector<float> f32;
  std::vector<bf16> half;
  WeightView view;

  OwnedWeight(int64_t rows, int64_t cols, DType dtype, uint32_t seed, float scale = 1)
      : f32(random_floats(rows * cols, seed, scale)) {
    view = {f32.data(), dtype, rows, cols};
    if (dtype == DType::f32) return;
    for (float v : f32) half.push_back(to_bf16(v));
    view.data = half.data();
  }
  OwnedWeight(const OwnedWeight&) = delete;
  OwnedWeight(OwnedWeight&&) = default;  // the vectors' memory, and so the view, stays valid
};

inline bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

}  // namespace guildhall
