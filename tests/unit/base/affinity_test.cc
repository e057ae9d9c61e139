#include "base/affinity.h"

#include <gtest/gtest.h>

#include <thread>

namespace guildhall {
namespace {

using Parts = std::vector<std::vector<int>>;

TEST(SplitCores, PartsAreNeighboursAndDifferByOneAtMost) {
  EXPECT_EQ(split_cores(std::vector{0, 1, 2, 3}, 2), (Parts{{0, 1}, {2, 3}}));
  EXPECT_EQ(split_cores(std::vector{2, 3, 5, 7, 11}, 2), (Parts{{2, 3}, {5, 7, 11}}));
  EXPECT_EQ(split_cores(std::vector{0, 1, 2, 3, 4, 5, 6}, 3), (Parts{{0, 1}, {2, 3}, {4, 5, 6}}));
  EXPECT_EQ(split_cores(std::vector{4, 5}, 1), (Parts{{4, 5}}));
}

TEST(SplitCores, CoresAreSharedWhereThereAreTooFew) {
  EXPECT_EQ(split_cores(std::vector{6, 7}, 3), (Parts{{6}, {7}, {6}}));
}

TEST(StayOn, IsForTheThreadAndThoseItStarts) {
  const std::vector<int> all = usable_cores(), last{all.back()};
  std::vector<int> own, of_thread;
  std::thread([&] {
    stay_on({});
    EXPECT_EQ(usable_cores(), all);
    stay_on(last);
    own = usable_cores();
    std::thread([&] { of_thread = usable_cores(); }).join();
  }).join();
  EXPECT_EQ(own, last);
  EXPECT_EQ(of_thread, last);
  EXPECT_EQ(usable_cores(), all);
}

TEST(OnCores, ThreadsStartedMeanwhileStayThere) {
  const std::vector<int> all = usable_cores();
  const std::vector<int> last{all.back()};
  std::vector<int> of_thread;
  {
    OnCores here(last);
    EXPECT_EQ(usable_cores(), last);
    std::thread([&] { of_thread = usable_cores(); }).join();
  }
  EXPECT_EQ(of_thread, last);
  EXPECT_EQ(usable_cores(), all);
  OnCores anywhere({});
  EXPECT_EQ(usable_cores(), all);
}

}  // namespace
}  // namespace guildhall
