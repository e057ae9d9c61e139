// expert_ffn_test.cc: the grouped FFN against its reference, the row rule, and experts that must not be read.
#include "kernels/expert_ffn.h"

#include <limits>
#include <tuple>

#include "kernel_fixture.h"
#include "kernels/linear.h"

namespace guildhall {
namespace {

struct Experts {
  std::vector<OwnedWeight> owned;
  std::vector<ExpertWeightView> views;

  Experts(int64_t num_e, int64_t num_h, int64_t num_f, DType dtype) {
    const float in_scale = 1 / std::sqrt(static_cast<float>(num_h)),
                out_scale = 1 / std::sqrt(static_cast<float>(num_f));
    for (int64_t e = 0; e < num_e; ++e) {
      const uint32_t seed = static_cast<uint32_t>(10 * e);
      owned.emplace_back(num_f, num_h, dtype, seed + 1, in_scale);
      owned.emplace_back(num_f, num_h, dtype, seed + 2, in_scale);
      owned.emplace_back(num_h, num_f, dtype, seed + 3, out_scale);
    }
    for (size_t i = 0; i < owned.size(); i += 3)
      views.push_back({owned[i].view, owned[i + 1].view, owned[i + 2].view});
  }
};

using FfnCase = std::tuple<Isa, DType>;
class ExpertFfn : public testing::TestWithParam<FfnCase> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }

 private:
  IsaScope scope_{std::get<0>(GetParam())};
};
std::string case_name(const testing::TestParamInfo<FfnCase>& info) {
  return std::string(to_string(std::get<0>(info.param))) + "_w_" +
         std::string(to_string(std::get<1>(info.param)));
}
INSTANTIATE_TEST_SUITE_P(Isa, ExpertFfn,
                         testing::Combine(testing::ValuesIn(available_isas()),
                                          testing::Values(DType::f32, DType::bf16, DType::e4m3)),
                         case_name);

TEST_P(ExpertFfn, MatchesRefForAnyGroupingOfRows) {
  Team team({.num_threads = 2});
  for (const auto& [num_h, num_f] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 17}, {100, 66}, {65, 131}}) {
    const Experts experts(4, num_h, num_f, dtype());
    for (const std::vector<int32_t>& offset_e : std::vector<std::vector<int32_t>>{
             {0, 0, 0, 0, 0}, {0, 1, 1, 1, 1}, {0, 0, 0, 0, 7}, {0, 3, 3, 20, 21}, {0, 120, 121, 121, 150}}) {
      const int64_t num_r = offset_e.back();
      const std::vector<float> x = random_floats(num_r * num_h, 5);
      std::vector<float> hidden(static_cast<size_t>(num_r * num_f)), y(x.size()), expected(x.size());
      const View2<const float> x_rh(x.data(), num_r, num_h);
      expert_ffn_ref(x_rh, offset_e, experts.views, {hidden.data(), num_r, num_f},
                     {expected.data(), num_r, num_h});
      expert_ffn_cpu(team, x_rh, offset_e, experts.views, {hidden.data(), num_r, num_f},
                     {y.data(), num_r, num_h});
      // Values are about 1 (weights are scaled so); three roundings chains of at most H/4 + F/4 steps each.
      const float tolerance = 6e-8f * static_cast<float>(num_h + num_f + 20);
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], tolerance)
            << "H=" << num_h << " F=" << num_f << " R=" << num_r << " i=" << i;
    }
  }
}

TEST_P(ExpertFfn, ARowsBitsDoNotDependOnItsGroupOrTheTeam) {
  constexpr int64_t kH = 83, kF = 141, kR = 130;
  const Experts experts(3, kH, kF, dtype());
  const std::vector<float> x = random_floats(kR * kH, 6);
  std::vector<float> hidden(kR * kF), alone_y(kR * kH), y(kR * kH);
  Team alone({.num_threads = 1}), two({.num_threads = 2}), four({.num_threads = 4, .spin_ns = 0});
  const std::vector<int32_t> one_row = {0, 0, 1, 1};
  for (int64_t r = 0; r < kR; ++r)
    expert_ffn_cpu(alone, {x.data() + r * kH, 1, kH}, one_row, experts.views, {hidden.data(), 1, kF},
                   {alone_y.data() + r * kH, 1, kH});
  for (int32_t rows : {1, 2, 5, 12, 13, 33, 96, 97, 130}) {
    for (Team* team : {&alone, &two, &four}) {
      // The expert under test is the middle one; the rows before and after go to its neighbours.
      for (int32_t before : {0, std::min<int32_t>(3, 130 - rows)}) {
        const std::vector<int32_t> offset_e = {0, before, before + rows, static_cast<int32_t>(kR)};
        std::fill(y.begin(), y.end(), -1.0f);
        expert_ffn_cpu(*team, {x.data(), kR, kH}, offset_e, experts.views, {hidden.data(), kR, kF},
                       {y.data(), kR, kH});
        for (int64_t i = before * kH; i < (before + rows) * kH; ++i)
          ASSERT_TRUE(same_bits(y[i], alone_y[i])) << "rows=" << rows << " r=" << i / kH << " h=" << i % kH;
      }
    }
  }
}

TEST_P(ExpertFfn, ExpertsWithoutRowsAreNotRead) {
  constexpr int64_t kH = 8, kF = 12;
  Experts experts(3, kH, kF, dtype());
  experts.views[0] = {};  // null: reading it would crash
  experts.views[2] = {};
  Team team({.num_threads = 2});
  const std::vector<float> x = random_floats(2 * kH, 7);
  std::vector<float> hidden(2 * kF), y(2 * kH);
  const std::vector<int32_t> offset_e = {0, 0, 2, 2};
  expert_ffn_cpu(team, {x.data(), 2, kH}, offset_e, experts.views, {hidden.data(), 2, kF}, {y.data(), 2, kH});
  for (float v : y) EXPECT_TRUE(std::isfinite(v));
}

TEST_P(ExpertFfn, NotANumberStaysInItsRow) {
  constexpr int64_t kH = 8, kF = 12, kR = 3;
  const Experts experts(1, kH, kF, dtype());
  Team team({.num_threads = 1});
  std::vector<float> x = random_floats(kR * kH, 8), hidden(kR * kF), y(kR * kH);
  x[1 * kH + 2] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> offset_e = {0, kR};
  expert_ffn_cpu(team, {x.data(), kR, kH}, offset_e, experts.views, {hidden.data(), kR, kF},
                 {y.data(), kR, kH});
  for (int64_t h = 0; h < kH; ++h) {
    EXPECT_TRUE(std::isfinite(y[h]));
    EXPECT_TRUE(std::isnan(y[kH + h]));
    EXPECT_TRUE(std::isfinite(y[2 * kH + h]));
  }
}

}  // namespace
}  // namespace guildhall
