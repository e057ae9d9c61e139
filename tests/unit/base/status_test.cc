#include "base/status.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

Result<int> half(int x) {
  if (x % 2) return Status{Code::invalid_argument, "odd"};
  return x / 2;
}

Result<int> quarter(int x) {
  GH_ASSIGN(const int h, half(x));
  return half(h);
}

Result<void> check_quarter(int x) {
  GH_TRY(quarter(x));
  return {};
}

TEST(Result, CarriesTheValueThroughAssign) { EXPECT_EQ(*quarter(8), 2); }

TEST(Result, ReturnsTheFirstError) {
  EXPECT_EQ(quarter(6).error().message, "odd");
  EXPECT_EQ(quarter(3).error().code, Code::invalid_argument);
  EXPECT_TRUE(check_quarter(3).has_error());
  EXPECT_FALSE(check_quarter(4).has_error());
}

TEST(Result, ValueOfAnErrorThrowsItsMessage) {
  EXPECT_THROW((void)half(1).value(), std::runtime_error);
  EXPECT_EQ(to_string(Status{Code::data_loss, "shard 2"}), "data_loss: shard 2");
}

}  // namespace
}  // namespace guildhall
