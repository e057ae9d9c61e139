#include "deploy/programs/plan_floors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace guildhall {
namespace {

constexpr GateShape kDeepSeek{.num_experts = 256, .top_k = 8};

TEST(PlanFloors, AStepTouchesMoreExpertsTheMoreTokensItHas) {
  EXPECT_DOUBLE_EQ(expected_experts(kDeepSeek, 1), 8);
  EXPECT_DOUBLE_EQ(expected_experts({4, 2}, 2), 3);  // half of what the first left
  EXPECT_NEAR(expected_experts(kDeepSeek, 32), 256 * (1 - std::pow(31.0 / 32, 32)), 1e-9);
  EXPECT_NEAR(expected_experts(kDeepSeek, 100'000), 256, 1e-6);
  EXPECT_EQ(expected_experts({}, 8), 0);
}

// proto/WIRE.md, 1.6, and a count by hand.
TEST(PlanFloors, ChoicesLieOnFewerWorkersThanTheyAre) {
  const auto even = [](int64_t workers) {
    return expected_workers(kDeepSeek, std::vector<int64_t>(static_cast<size_t>(workers), 256 / workers));
  };
  EXPECT_NEAR(even(8), 5.3, 0.05);
  EXPECT_NEAR(even(16), 6.5, 0.05);
  EXPECT_NEAR(even(32), 7.3, 0.05);
  EXPECT_NEAR(even(64), 7.7, 0.05);
  EXPECT_DOUBLE_EQ(even(1), 1);
  EXPECT_DOUBLE_EQ(even(256), 8);
  // Of four experts two are chosen: six pairs. Worker 0 has three of them and is in all six, worker 1 in
  // three.
  EXPECT_DOUBLE_EQ(expected_workers({4, 2}, std::vector<int64_t>{3, 1}), 1.5);
}

TEST(PlanFloors, BytesOnTheWireAreThoseOfTheProtocol) {
  constexpr int64_t kHidden = 7168;
  const auto of = [](Codec codec, Combine combine) {
    return wire_bytes(kDeepSeek, {codec, codec}, combine, kHidden, 5.3);
  };
  EXPECT_NEAR(of(Codec::f32, Combine::exact).out / 1000, 152, 0.5);
  EXPECT_NEAR(of(Codec::f32, Combine::exact).back / 1000, 229, 0.5);
  EXPECT_NEAR(of(Codec::bf16, Combine::reduced).back / 1000, 76, 0.5);
  EXPECT_NEAR(of(Codec::fp8, Combine::exact).out / 1000, 39, 0.5);
  EXPECT_NEAR(of(Codec::fp8, Combine::exact).back / 1000, 59, 0.5);
  EXPECT_DOUBLE_EQ(wire_bytes({4, 2}, {Codec::f32, Codec::bf16}, Combine::exact, 16, 1).out, 64 + 2 * 12);
  EXPECT_DOUBLE_EQ(wire_bytes({4, 2}, {Codec::f32, Codec::bf16}, Combine::exact, 16, 1).back, 2 * 32);
}

}  // namespace
}  // namespace guildhall
