// shard_test.cc: every head, column and id belongs to ranks as it should, for any number of ranks.
#include "model/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::HasSubstr;

ModelSpec spec_of(int64_t heads, int64_t kv_heads) {
  ModelSpec spec;
  spec.hidden = 8, spec.num_layers = 2, spec.vocab_size = 1000, spec.dense_width = 100;
  spec.is_moe_layer = {false, true};
  spec.moe = {.num_experts = 4, .top_k = 2, .expert_width = 6, .shared_width = 96};
  if (kv_heads > 0)
    spec.attention = GqaSpec{.num_heads = heads, .num_kv_heads = kv_heads, .head_dim = 4, .scale = 1};
  else
    spec.attention = MlaSpec{.num_heads = heads, .kv_lora_rank = 3};
  return spec;
}

void expect_covered(int64_t size, const std::vector<IndexRange>& ranges) {
  int64_t at = 0;
  for (const IndexRange& range : ranges) {
    EXPECT_EQ(range.begin, at);
    EXPECT_GT(range.size(), 0);
    at = range.end;
  }
  EXPECT_EQ(at, size);
}

TEST(Shard, EveryPartBelongsToOneRankAndQueriesAreWithTheirKeys) {
  for (const auto& [heads, kv_heads] : std::vector<std::pair<int64_t, int64_t>>{
           {6, 2}, {5, 1}, {3, 3}, {32, 4}, {64, 8}, {12, 3}, {7, 0}, {16, 0}})
    for (int n = 1; n <= heads; ++n) {
      SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " over " << n);
      const ModelSpec spec = spec_of(heads, kv_heads);
      std::vector<IndexRange> query, dense, shared, vocab;
      for (int r = 0; r < n; ++r) {
        const ModelShard shard = make_shard(spec, r, n).value();
        query.push_back(shard.heads), dense.push_back(shard.dense_columns);
        shared.push_back(shard.shared_columns), vocab.push_back(shard.vocab);
        EXPECT_EQ(shard.spec.dense_width, shard.dense_columns.size());
        EXPECT_EQ(shard.spec.moe.shared_width, shard.shared_columns.size());
        EXPECT_EQ(shard.spec.vocab_size, shard.vocab.size());
        EXPECT_EQ(shard.vocab_size, 1000);
        if (kv_heads == 0) {
          EXPECT_EQ(std::get<MlaSpec>(shard.spec.attention).num_heads, shard.heads.size());
          continue;
        }
        // Query h of the rank reads its key head h / (heads / key heads), which is the model's.
        const auto& gqa = std::get<GqaSpec>(shard.spec.attention);
        ASSERT_EQ(gqa.num_heads % gqa.num_kv_heads, 0);
        for (int64_t h = 0; h < gqa.num_heads; ++h)
          EXPECT_EQ(shard.kv_heads.begin + h / (gqa.num_heads / gqa.num_kv_heads),
                    (shard.heads.begin + h) / (heads / kv_heads));
      }
      expect_covered(heads, query), expect_covered(100, dense), expect_covered(96, shared);
      expect_covered(1000, vocab);
    }
}

TEST(Shard, ColumnsAreDividedAtWholeTiles) {
  const ModelShard shard = make_shard(spec_of(4, 4), 1, 2).value();
  EXPECT_EQ(shard.dense_columns, (IndexRange{48, 100}));
  EXPECT_EQ(shard.shared_columns, (IndexRange{48, 96}));
}

TEST(Shard, TheWholeModelIsOneRank) {
  const ModelShard shard = whole_model(spec_of(6, 2));
  EXPECT_EQ(shard.heads, (IndexRange{0, 6}));
  EXPECT_EQ(shard.kv_heads, (IndexRange{0, 2}));
  EXPECT_EQ(shard.vocab, (IndexRange{0, 1000}));
}

TEST(Shard, MoreRanksThanPartsAreRefusedByName) {
  EXPECT_EQ(make_shard(spec_of(6, 2), 0, 7).error().message,
            "router.dense.tensor_parallel: 7 ranks cannot share the model's 6 attention heads; largest that "
            "works: 6");
  ModelSpec narrow = spec_of(6, 2);
  narrow.dense_width = 3;
  EXPECT_THAT(make_shard(narrow, 0, 4).error().message, HasSubstr("3 columns of a dense MLP"));
  narrow.is_moe_layer = {true, true};
  EXPECT_TRUE(make_shard(narrow, 0, 4));
}

}  // namespace
}  // namespace guildhall
