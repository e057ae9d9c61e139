#include "router/kv_cache.h"

#include <gtest/gtest.h>

#include "kernels/cpu_ops.h"
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

// A page of 4 tokens: codes, MLA's rope part in bf16, and a scale per token, kv head and 128 codes.
TEST(KvCache, PagesOfCodesHoldTheirScales) {
  for (const DType dtype : {DType::e4m3, DType::int8}) {
    KvCacheOptions codes = options(1 << 20);
    codes.dtype = dtype;
    EXPECT_EQ(KvCache::page_bytes(tiny_gqa_spec(), codes), 2 * 2 * (4 * 2 * (8 + 4)));
    EXPECT_EQ(KvCache::page_bytes(tiny_mla_spec(), codes), 2 * (4 * 8 + 4 * 4 * 2 + 4 * 4));
    for (const ModelSpec& spec : {tiny_gqa_spec(), tiny_mla_spec()}) {
      const auto cache = *KvCache::create(spec, codes);
      EXPECT_EQ(cache->num_pages(), (1 << 20) / KvCache::page_bytes(spec, codes));
      int64_t bytes = 0;
      for (const PageArray& array : cache->arrays()) bytes += array.page_bytes;
      EXPECT_EQ(bytes, cache->page_bytes());
    }
  }
}

// Whatever arrays() covers: what is read from the copy has the bits of the original, scales and all.
TEST(KvCache, ACopiedPageOfCodesReadsAsItsOriginal) {
  const auto ops = make_cpu_ops({.num_threads = 1});
  for (const ModelSpec& spec : {tiny_gqa_spec(), tiny_mla_spec()}) {
    KvCacheOptions codes = options(1 << 16);
    codes.dtype = DType::int8;
    const auto cache = *KvCache::create(spec, codes);
    const KvPages pages = cache->layer(1);
    const int64_t k_size = pages.num_kv_heads * pages.k_dim, v_size = pages.num_kv_heads * pages.v_dim;
    std::vector<float> k, v, q(static_cast<size_t>(4 * pages.k_dim), 0.3f);
    for (int64_t i = 0; i < 4 * k_size; ++i) k.push_back(static_cast<float>(i % 13) - 5);
    for (int64_t i = 0; i < 4 * v_size; ++i) v.push_back(static_cast<float>(i % 7) + 1);
    const std::vector<int32_t> sequence(4, 0), position{0, 1, 2, 3}, page{2}, copy{5};
    const auto view = [&](const std::vector<float>& x, int64_t dim) {
      return View3<const float>(x.data(), 4, pages.num_kv_heads, dim);
    };
    const auto write = [&](const std::vector<int32_t>& table) {
      ops->kv_write(view(k, pages.k_dim), view(v, pages.v_dim),
                    {sequence, position, View2<const int32_t>(table.data(), 1, 1)}, pages);
    };
    const auto attend = [&](const std::vector<int32_t>& table) {
      const std::vector<int32_t> last{3};
      std::vector<float> out(static_cast<size_t>(4 * pages.v_dim));
      ops->paged_attention(View3<const float>(q.data(), 1, 4, pages.k_dim),
                           {std::span(sequence).first(1), last, View2<const int32_t>(table.data(), 1, 1)},
                           pages, 0.5f, View3<float>(out.data(), 1, 4, pages.v_dim));
      return out;
    };
    write(page);
    for (float& x : k) x *= 2;
    for (float& x : v) x *= 3;
    write(copy);
    EXPECT_NE(attend(copy), attend(page));
    cache->copy_page(*ops, 2, 5);
    EXPECT_EQ(attend(copy), attend(page));
  }
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
