#include "router/step_budget.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

using std::chrono::milliseconds;

TEST(StepBudget, WithoutATargetOrWithoutAnyoneWaitingAStepTakesAll) {
  StepBudget none(512, milliseconds(0)), quiet(512, milliseconds(10));
  for (StepBudget* budget : {&none, &quiet}) budget->record(100, 1'000'000'000);
  EXPECT_EQ(none.tokens(8), 512);
  EXPECT_EQ(quiet.tokens(0), 512);
}

TEST(StepBudget, FitsAFixedCostAndACostPerToken) {
  StepBudget budget(1000, milliseconds(50));
  EXPECT_EQ(budget.tokens(4), 1000);  // nothing is known yet
  for (int i = 0; i < 100; ++i) {
    const int64_t n = 1 + i * 37 % 400;
    budget.record(n, 10'000'000 + n * 200'000);
  }
  EXPECT_NEAR(static_cast<double>(budget.tokens(4)), 200, 1);
}

TEST(StepBudget, FollowsWhenStepsBecomeSlower) {
  StepBudget budget(1000, milliseconds(50));
  for (const int64_t ns_per_token : {100'000, 500'000})
    for (int i = 0; i < 300; ++i) {
      const int64_t n = 1 + i * 37 % 400;
      budget.record(n, n * ns_per_token);
    }
  EXPECT_NEAR(static_cast<double>(budget.tokens(4)), 100, 2);
}

TEST(StepBudget, StepsOfOneSizeCountAsProportional) {
  StepBudget budget(1000, milliseconds(50));
  for (int i = 0; i < 50; ++i) budget.record(10, 10'000'000);
  EXPECT_EQ(budget.tokens(4), 50);
}

TEST(StepBudget, DecodingAndALittlePrefillGoOnHoweverLate) {
  StepBudget budget(1000, milliseconds(1));
  budget.record(10, 500'000'000);
  EXPECT_EQ(budget.tokens(40), 40 + StepBudget::kLeastPrefill);
  StepBudget small(8, milliseconds(1));
  small.record(10, 500'000'000);
  EXPECT_EQ(small.tokens(40), 8);
}

}  // namespace
}  // namespace guildhall
