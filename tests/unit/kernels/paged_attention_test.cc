// paged_attention_test.cc: every shape against the reference, and the row rule: chunks, batch, team, page
// order.
#include "kernels/paged_attention.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

struct Shape {
  int64_t num_heads, num_kv_heads, k_dim, v_dim;
  bool values_are_keys;  // MLA
};

// A cache of shuffled pages for a few sequences, and the queries, keys and values of all their tokens.
class Cache {
 public:
  Cache(const Shape& shape, DType dtype, int64_t block_size, std::vector<int64_t> lengths,
        uint32_t page_seed = 1)
      : shape_(shape), lengths_(std::move(lengths)) {
    int64_t blocks_per_sequence = 0;
    for (int64_t length : lengths_)
      blocks_per_sequence = std::max(blocks_per_sequence, (length + block_size - 1) / block_size);
    const auto num_sequences = static_cast<int64_t>(lengths_.size());
    table_.resize(num_sequences * blocks_per_sequence);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(page_seed));
    table_sb_ = {table_.data(), num_sequences, blocks_per_sequence};
    pages_ = {.dtype = dtype,
              .num_pages = static_cast<int64_t>(table_.size()),
              .block_size = block_size,
              .num_kv_heads = shape.num_kv_heads,
              .k_dim = shape.k_dim,
              .v_dim = shape.v_dim,
              .v_stride = shape.values_are_keys ? shape.k_dim : shape.v_dim,
              .k = &k_,
              .v = shape.values_are_keys ? static_cast<void*>(&k_) : &v_};
    // NaN, in every element type, wherever nothing was written: reading a slot too many shows.
    k_.assign(pages_.num_pages * key_layout(pages_).page_bytes, std::byte{0xff});
    v_.assign(shape.values_are_keys ? 0 : pages_.num_pages * value_layout(pages_).page_bytes,
              std::byte{0xff});
    pages_.k = k_.data();
    pages_.v = shape.values_are_keys ? k_.data() : v_.data();
    for (size_t s = 0; s < lengths_.size(); ++s) {
      const auto seed = static_cast<uint32_t>(10 * s);
      q_.push_back(random_floats(lengths_[s] * shape.num_heads * shape.k_dim, seed + 1));
      new_k_.push_back(random_floats(lengths_[s] * shape.num_kv_heads * shape.k_dim, seed + 2));
      new_v_.push_back(random_floats(lengths_[s] * shape.num_kv_heads * shape.v_dim, seed + 3));
    }
  }

  struct Token {
    int64_t sequence, position;
  };

  // Writes the tokens' keys and values, attends, and returns out [T, H, v_dim].
  std::vector<float> step(Team* team, const std::vector<Token>& tokens) {
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    std::vector<int32_t> sequence, position;
    std::vector<float> q, k, v;
    for (const Token& token : tokens) {
      sequence.push_back(static_cast<int32_t>(token.sequence));
      position.push_back(static_cast<int32_t>(token.position));
      append_row(q_[token.sequence], token.position, shape_.num_heads * shape_.k_dim, q);
      append_row(new_k_[token.sequence], token.position, shape_.num_kv_heads * shape_.k_dim, k);
      append_row(new_v_[token.sequence], token.position, shape_.num_kv_heads * shape_.v_dim, v);
    }
    const AttentionBatch batch{sequence, position, table_sb_};
    const View3<const float> k_thd(k.data(), num_tokens, shape_.num_kv_heads, shape_.k_dim);
    const View3<const float> v_thd(v.data(), num_tokens, shape_.num_kv_heads, shape_.v_dim);
    const View3<const float> q_thd(q.data(), num_tokens, shape_.num_heads, shape_.k_dim);
    std::vector<float> out(num_tokens * shape_.num_heads * shape_.v_dim, 77.0f);
    const View3<float> out_thd(out.data(), num_tokens, shape_.num_heads, shape_.v_dim);
    const float scale = 1 / std::sqrt(static_cast<float>(shape_.k_dim));
    if (team != nullptr) {
      kv_write_cpu(*team, k_thd, v_thd, batch, pages_);
      paged_attention_cpu(*team, q_thd, batch, pages_, scale, out_thd);
    } else {
      kv_write_ref(k_thd, v_thd, batch, pages_);
      paged_attention_ref(q_thd, batch, pages_, scale, out_thd);
    }
    return out;
  }

  // Only writes the keys and values of the sequence's first tokens.
  void fill(Team& team, int64_t sequence, int64_t end) {
    std::vector<int32_t> sequence_t(end, static_cast<int32_t>(sequence)), position_t(end);
    std::iota(position_t.begin(), position_t.end(), 0);
    kv_write_cpu(team, View3<const float>(new_k_[sequence].data(), end, shape_.num_kv_heads, shape_.k_dim),
                 View3<const float>(new_v_[sequence].data(), end, shape_.num_kv_heads, shape_.v_dim),
                 {sequence_t, position_t, table_sb_}, pages_);
  }

  // Sequence s from `begin` to `end`.
  static std::vector<Token> chunk(int64_t sequence, int64_t begin, int64_t end) {
    std::vector<Token> tokens;
    for (int64_t p = begin; p < end; ++p) tokens.push_back({sequence, p});
    return tokens;
  }

  bool same_contents(const Cache& other) const { return k_ == other.k_ && v_ == other.v_; }

 private:
  static void append_row(const std::vector<float>& from, int64_t row, int64_t size, std::vector<float>& to) {
    to.insert(to.end(), from.begin() + row * size, from.begin() + (row + 1) * size);
  }

  Shape shape_;
  std::vector<int64_t> lengths_;
  std::vector<int32_t> table_;
  View2<const int32_t> table_sb_;
  std::vector<std::byte> k_, v_;
  KvPages pages_;
  std::vector<std::vector<float>> q_, new_k_, new_v_;  // [sequence][position x heads x dim]
};

void expect_same_bits(std::span<const float> a, std::span<const float> b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_TRUE(same_bits(a[i], b[i])) << i << ": " << a[i] << " " << b[i];
}

constexpr Shape kShapes[] = {
    {1, 1, 5, 3, false},      // tiny and odd
    {3, 3, 16, 16, false},    // a group of 1
    {6, 2, 33, 20, false},    // a group of 3
    {8, 1, 128, 128, false},  // a group of 8
    {40, 1, 24, 8, true},     // a group beyond the token tile
    {2, 1, 576, 512, true},   // MLA
};

constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::e4m3, DType::int8};

// Scores err by D roundings of q.k / sqrt(D), about sqrt(D) * eps relative to their spread of one; that
// passes to p, and the output is an average of values of about one.
double tolerance(const Shape& shape) { return 1e-6 * (4 + std::sqrt(static_cast<double>(shape.k_dim))); }

using PagedAttention = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, PagedAttention, testing::ValuesIn(available_isas()), isa_name);

TEST_P(PagedAttention, PrefillMatchesRef) {
  Team team({.num_threads = 2, .spin_ns = 0});
  for (const Shape& shape : kShapes) {
    for (DType dtype : kDTypes) {
      for (int64_t block_size : {1, 7, 16}) {
        if (shape.k_dim > 500 && block_size != 7) continue;  // the reference is slow
        // Two sequences in one step, the second continuing after a first chunk.
        const int64_t length = 135;
        Cache cpu(shape, dtype, block_size, {length, 37}), ref(shape, dtype, block_size, {length, 37});
        auto tokens = Cache::chunk(1, 0, 30);
        cpu.step(&team, tokens);
        ref.step(nullptr, tokens);
        tokens = Cache::chunk(0, 0, length);
        for (const auto& token : Cache::chunk(1, 30, 37)) tokens.push_back(token);
        const std::vector<float> out = cpu.step(&team, tokens), expected = ref.step(nullptr, tokens);
        EXPECT_TRUE(cpu.same_contents(ref));
        for (size_t i = 0; i < out.size(); ++i)
          ASSERT_NEAR(out[i], expected[i], tolerance(shape)) << shape.k_dim << " " << block_size << " " << i;
      }
    }
  }
}

TEST_P(PagedAttention, DecodeMatchesRefAtEveryKindOfContextLength) {
  Team team({.num_threads = 3, .spin_ns = 0});
  const std::vector<int64_t> lengths = {1, 2, 127, 128, 129, 256, 257, 333};
  for (const Shape& shape : kShapes) {
    for (DType dtype : kDTypes) {
      Cache cpu(shape, dtype, 16, lengths);
      std::vector<Cache::Token> last;
      for (size_t s = 0; s < lengths.size(); ++s) {
        const auto sequence = static_cast<int64_t>(s);
        cpu.fill(team, sequence, lengths[s] - 1);
        last.push_back({sequence, lengths[s] - 1});
      }
      const std::vector<float> out = cpu.step(&team, last);
      // The reference reads the cache that cpu filled (PrefillMatchesRef compares the writes).
      const std::vector<float> expected = cpu.step(nullptr, last);
      for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], tolerance(shape)) << i;
    }
  }
}

// One pass == chunks of any size == token by token; alone or among others; any team; any page order and size.
TEST_P(PagedAttention, ATokensBitsDependOnItsOwnContextOnly) {
  Team alone({.num_threads = 1}), team({.num_threads = 3, .spin_ns = 0});
  for (const Shape& shape : kShapes) {
    for (DType dtype : kDTypes) {
      constexpr int64_t kLength = 261;
      const int64_t row = shape.num_heads * shape.v_dim;
      Cache whole(shape, dtype, 16, {kLength});
      const std::vector<float> expected = whole.step(&alone, Cache::chunk(0, 0, kLength));
      const auto expected_rows = [&](int64_t begin, int64_t end) {
        return std::span(expected).subspan(begin * row, (end - begin) * row);
      };

      for (int64_t chunk : {1, 2, 5, 31, 100, 128, 200}) {
        Cache cache(shape, dtype, 7, {kLength}, 5);
        for (int64_t begin = 0; begin < kLength; begin += chunk) {
          const int64_t end = std::min(begin + chunk, kLength);
          expect_same_bits(cache.step(chunk % 2 == 0 ? &alone : &team, Cache::chunk(0, begin, end)),
                           expected_rows(begin, end));
        }
      }

      // Among other sequences' decode and prefill tokens, with the work spread differently.
      Cache among(shape, dtype, 3, {kLength, 300, 20}, 9);
      among.fill(team, 1, 299);
      auto tokens = std::vector<Cache::Token>{{1, 299}};
      for (const auto& token : Cache::chunk(0, 0, kLength)) tokens.push_back(token);
      for (const auto& token : Cache::chunk(2, 0, 20)) tokens.push_back(token);
      const std::vector<float> out = among.step(&team, tokens);
      expect_same_bits(std::span(out).subspan(row, kLength * row), expected);
    }
  }
}

// A later token's NaN must not reach an earlier one that shares its tile.
TEST_P(PagedAttention, LaterTokensOfAChunkDoNotTouchEarlierOnes) {
  Team team({.num_threads = 1});
  const Shape shape{2, 1, 8, 8, false};
  std::vector<float> q = random_floats(3 * 2 * 8, 1), k = random_floats(3 * 8, 2),
                     v = random_floats(3 * 8, 3);
  for (int i = 16; i < 24; ++i) k[i] = v[i] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> cache_k(4 * 8), cache_v(4 * 8), out(3 * 2 * 8);
  const KvPages pages{DType::f32, 1, 4, 1, 8, 8, 8, cache_k.data(), cache_v.data()};
  const std::vector<int32_t> sequence = {0, 0, 0}, position = {0, 1, 2}, table = {0};
  const AttentionBatch batch{sequence, position, View2<const int32_t>(table.data(), 1, 1)};
  kv_write_cpu(team, View3<const float>(k.data(), 3, 1, 8), View3<const float>(v.data(), 3, 1, 8), batch,
               pages);
  paged_attention_cpu(team, View3<const float>(q.data(), 3, shape.num_heads, 8), batch, pages, 0.3f,
                      View3<float>(out.data(), 3, shape.num_heads, 8));
  for (int i = 0; i < 32; ++i) EXPECT_FALSE(std::isnan(out[i])) << i;
  for (int i = 32; i < 48; ++i) EXPECT_TRUE(std::isnan(out[i])) << i;
}

// Enough partial results for several waves: 128 heads x 512 x 4 bytes each, over many splits.
TEST_P(PagedAttention, LongContextsAreMergedInWavesWithTheSameBits) {
  Team alone({.num_threads = 1}), team({.num_threads = 3, .spin_ns = 0});
  const Shape shape{130, 1, 8, 520, false};
  constexpr int64_t kLength = 128 * 20 + 5;
  for (DType dtype : {DType::bf16, DType::int8}) {
    Cache cache(shape, dtype, 16, {kLength});
    cache.fill(team, 0, kLength - 1);
    const std::vector<Cache::Token> last = {{0, kLength - 1}};
    const std::vector<float> out = cache.step(&team, last);
    expect_same_bits(out, cache.step(&alone, last));
    const std::vector<float> expected = cache.step(nullptr, last);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], tolerance(shape)) << i;
  }
}

}  // namespace
}  // namespace guildhall
