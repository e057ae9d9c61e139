#include "router/kv_cache.h"

#include <gtest/gtest.h>

#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

KvCacheOptions options(int64_t memory) {
  return {.block_size = 4,
          .memory_bytes = memory,
          .dtype = DType::f32,
          .max_model_len = 16,
          .max_tokens = 1 << 20};
}

TEST(KvCache, HoldsWhatTheMemoryAllows) {
  const ModelSpec spec =
      tiny_gqa_spec();  // 2 layers x 2 kv heads x 8 x (k and v) x 4 bytes = 256 bytes a token
  const auto cache = *KvCache::create(spec, options(256 * 4 * 10));
  EXPECT_EQ(cache->num_pages(), 10);
  EXPECT_EQ(cache->capacity_tokens(), 40);
}

TEST(KvCache, RefusesLessThanOneSequenceAndSaysWhatFits) {
  const auto cache = KvCache::create(tiny_gqa_spec(), options(256 * 4 * 3));
  ASSERT_TRUE(cache.has_error());
  EXPECT_EQ(cache.error().code, Code::resource_exhausted);
  EXPECT_NE(cache.error().message.find("largest context that fits: 12"), std::string::npos)
      << cache.error().message;
}

TEST(KvCache, MlaStoresLatentAndRopeKeyOnce) {
  const auto cache = *KvCache::create(tiny_mla_spec(), options(1 << 20));
  const KvPages pages = cache->layer(1);
  EXPECT_EQ(pages.k, pages.v);
  EXPECT_EQ(pages.k_dim, 12);
  EXPECT_EQ(pages.v_dim, 8);
  EXPECT_EQ(pages.num_kv_heads, 1);
}

TEST(KvCache, WithoutPrefixCachingMakesNoMorePagesThanSequencesCanUse) {
  KvCacheOptions few = options(256 * 4 * 10);
  few.max_tokens = 16;
  EXPECT_EQ((*KvCache::create(tiny_gqa_spec(), few))->num_pages(), 10);
  few.prefix_caching = false;
  EXPECT_EQ((*KvCache::create(tiny_gqa_spec(), few))->num_pages(), 4);
}

}  // namespace
}  // namespace guildhall
