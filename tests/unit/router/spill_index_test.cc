#include "router/spill_index.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

std::vector<PrefixKey> keys_of(uint8_t n) {
  std::vector<PrefixKey> keys(n);
  for (uint8_t i = 0; i < n; ++i) keys[i].bytes.fill(static_cast<uint8_t>(i + 1));
  return keys;
}

void write(SpillIndex& index, const PrefixKey& key) {
  ASSERT_TRUE(index.begin_write(key));
  index.end_write(key);
}

TEST(SpillIndex, APageIsThereOnceItIsWritten) {
  SpillIndex index(2);
  const auto keys = keys_of(2);
  EXPECT_EQ(index.begin_write(keys[0]), 0);
  EXPECT_TRUE(index.is_known(keys[0]));
  EXPECT_FALSE(index.is_written(keys[0]));
  index.end_write(keys[0]);
  EXPECT_TRUE(index.is_written(keys[0]));
  EXPECT_FALSE(index.is_known(keys[1]));
  EXPECT_EQ(index.num_used(), 1);
  EXPECT_EQ(index.audit(), "");
}

TEST(SpillIndex, ThePageLongestNotAskedForMakesWay) {
  SpillIndex index(3);
  const auto keys = keys_of(5);
  for (size_t i = 0; i < 3; ++i) write(index, keys[i]);
  index.touch(std::span(keys).first(2));  // as blocks of one prompt: the last of them goes first
  write(index, keys[3]);
  EXPECT_FALSE(index.is_known(keys[2]));
  write(index, keys[4]);
  EXPECT_FALSE(index.is_known(keys[1]));
  EXPECT_TRUE(index.is_written(keys[0]));
  EXPECT_EQ(index.num_used(), 3);
  EXPECT_EQ(index.audit(), "");
}

TEST(SpillIndex, ASlotInUseIsNotGivenAway) {
  SpillIndex index(2);
  const auto keys = keys_of(3);
  write(index, keys[0]);
  const int64_t slot = index.begin_read(keys[0]);
  ASSERT_TRUE(index.begin_write(keys[1]));
  EXPECT_FALSE(index.begin_write(keys[2]));
  index.end_read(keys[0]);
  EXPECT_EQ(index.begin_write(keys[2]), slot);
  EXPECT_FALSE(index.is_known(keys[0]));
  EXPECT_EQ(index.audit(), "");
}

TEST(SpillIndex, AForgottenPagesSlotIsFree) {
  SpillIndex index(1);
  const auto keys = keys_of(2);
  write(index, keys[0]);
  index.erase(keys[0]);
  EXPECT_EQ(index.num_used(), 0);
  EXPECT_EQ(index.begin_write(keys[1]), 0);
  EXPECT_EQ(index.audit(), "");
}

}  // namespace
}  // namespace guildhall
