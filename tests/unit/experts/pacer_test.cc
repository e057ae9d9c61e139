#include "experts/pacer.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Clock::time_point kStart{std::chrono::hours(1)};

TEST(Pacer, WithoutARateNothingWaits) {
  Pacer pacer(0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(pacer.take(1 << 30, kStart).count(), 0);
}

TEST(Pacer, PiecesFollowEachOtherAtTheRate) {
  Pacer pacer(1000);
  EXPECT_EQ(pacer.take(500, kStart), seconds(0));
  EXPECT_EQ(pacer.take(250, kStart), milliseconds(500));
  EXPECT_EQ(pacer.take(250, kStart + milliseconds(500)), milliseconds(250));
}

TEST(Pacer, TimeInWhichNothingMovedIsNotMadeUpFor) {
  Pacer pacer(1000);
  pacer.take(100, kStart);
  const Clock::time_point later = kStart + seconds(60);
  EXPECT_EQ(pacer.take(1000, later), seconds(0));
  EXPECT_EQ(pacer.take(1, later), seconds(1));
}

TEST(Pacer, TheLeastRateAndTheLargestPieceDoNotOverflow) {
  Pacer pacer(1);
  EXPECT_EQ(pacer.take(INT64_MAX, kStart), seconds(0));
  EXPECT_GE(pacer.take(1, kStart), std::chrono::hours(24));
}

}  // namespace
}  // namespace guildhall
