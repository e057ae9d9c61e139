// decode_batch_test.cc: decode steps take few shapes, and padding changes nothing of what was there.
#include "router/decode_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::ElementsAre;

TEST(DecodeBatch, RowsComeInBuckets) {
  std::vector<int64_t> rows;
  for (const int64_t n : {1, 2, 3, 4, 5, 8, 9, 64}) rows.push_back(decode_rows(n));
  EXPECT_THAT(rows, ElementsAre(1, 2, 4, 4, 8, 8, 16, 64));
}

TEST(DecodeBatch, ContextsComeInPowersOfTwo) {
  EXPECT_EQ(decode_context(1), 512);
  EXPECT_EQ(decode_context(512), 512);
  EXPECT_EQ(decode_context(513), 1024);
}

TEST(DecodeBatch, AStepOfLoneTokensIsOne) {
  EXPECT_TRUE(is_decode({.sequence_t = {0, 1, 2}}));
  EXPECT_FALSE(is_decode({.sequence_t = {0, 1, 1}}));
}

TEST(DecodeBatch, PaddingComesAfterTheTokensAndNamesNoSequence) {
  const StepBatch batch{.ids_t = {7, 8, 9},
                        .position_t = {3, 600, 1},
                        .sequence_t = {0, 1, 2},
                        .block_table_sb = {5, 0, 0, 11, 12, 13, 4, 0, 0},
                        .num_sequences = 3,
                        .blocks_per_sequence = 3,
                        .logit_rows = {0, 1, 2}};
  StepBatch padded;
  EXPECT_EQ(pad_decode(batch, 256, padded), 1024);
  EXPECT_THAT(padded.ids_t, ElementsAre(7, 8, 9, 0));
  EXPECT_THAT(padded.position_t, ElementsAre(3, 600, 1, -1));
  EXPECT_THAT(padded.sequence_t, ElementsAre(0, 1, 2, -1));
  EXPECT_THAT(padded.logit_rows, ElementsAre(0, 1, 2));
  EXPECT_EQ(padded.num_sequences, 4);
  EXPECT_EQ(padded.blocks_per_sequence, 4);
  EXPECT_THAT(padded.block_table_sb, ElementsAre(5, 0, 0, 0, 11, 12, 13, 0, 4, 0, 0, 0, 0, 0, 0, 0));
}

}  // namespace
}  // namespace guildhall
