// step_window_test.cc: the window slides, and its length may change while it does.
#include "router/balance/step_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

struct Sum {
  int64_t steps = 0, last = 0;
  Sum& operator+=(const Sum& other) {
    steps += other.steps, last = std::max(last, other.last);
    return *this;
  }
};

class StepWindowTest : public ::testing::Test {
 protected:
  void add(StepWindow<Sum>& window, int64_t num_steps) {
    for (int64_t i = 0; i < num_steps; ++i) {
      Sum& part = window.open_step();
      ++part.steps, part.last = ++last_;
    }
  }
  int64_t last_ = 0;
};

TEST_F(StepWindowTest, HoldsSevenEighthsToAllOfItsLength) {
  StepWindow<Sum> window({}, 80);
  for (int64_t i = 1; i <= 500; ++i) {
    add(window, 1);
    EXPECT_LE(window.num_steps(), 80);
    EXPECT_GE(window.num_steps(), std::min<int64_t>(i, 71));
    EXPECT_EQ(window.sum().steps, window.num_steps());
    EXPECT_EQ(window.sum().last, i);
  }
}

TEST_F(StepWindowTest, AShorterLengthForgetsAtOnceAndALongerOneFillsUp) {
  StepWindow<Sum> window({}, 800);
  add(window, 2000);
  EXPECT_GE(window.num_steps(), 700);
  window.set_window_steps(80);
  EXPECT_LE(window.num_steps(), 80);
  add(window, 200);
  EXPECT_GE(window.num_steps(), 71);
  EXPECT_LE(window.num_steps(), 80);
  window.set_window_steps(1600);
  EXPECT_GE(window.num_steps(), 71);
  add(window, 5000);
  EXPECT_GE(window.num_steps(), 1401);
  EXPECT_LE(window.num_steps(), 1600);
  EXPECT_EQ(window.sum().last, last_);
}

TEST_F(StepWindowTest, ALengthThatChangesAllTheTimeLosesNothingNew) {
  StepWindow<Sum> window({}, 8);
  for (int64_t i = 0; i < 1000; ++i) {
    window.set_window_steps(i % 2 == 0 ? 8 : 1'000'000);
    add(window, 1);
    EXPECT_GE(window.num_steps(), 1);
  }
  EXPECT_EQ(window.sum().last, 1000);
}

TEST_F(StepWindowTest, ACopyStaysAsItIs) {
  StepWindow<Sum> window({}, 8);
  add(window, 20);
  const StepWindow<Sum> copy = window;
  add(window, 20);
  EXPECT_EQ(copy.sum().last, 20);
  EXPECT_EQ(window.sum().last, 40);
}

}  // namespace
}  // namespace guildhall
