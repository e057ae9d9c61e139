// attention_test.cc: attention on the device against the reference: mixed prefill and decode,
// grouped and MLA heads, odd pages; and the row rule of decode.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <random>

#include "kernels/paged_attention.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

struct Shape {
  int64_t num_heads, num_kv_heads, k_dim, v_dim;
  bool values_are_keys = false;  // MLA
};

// Tokens of one sequence in a step: positions [begin, end).
struct Chunk {
  int64_t sequence, begin, end;
};

struct Step {
  std::vector<int32_t> sequence_t, position_t;
  AttentionBounds bounds;

  Step(std::initializer_list<Chunk> chunks) : Step(std::vector<Chunk>(chunks)) {}
  explicit Step(const std::vector<Chunk>& chunks) {
    for (const Chunk& chunk : chunks)
      for (int64_t p = chunk.begin; p < chunk.end; ++p) {
        sequence_t.push_back(static_cast<int32_t>(chunk.sequence));
        position_t.push_back(static_cast<int32_t>(p));
      }
    bounds = attention_bounds(sequence_t, position_t);
  }
  int64_t num_tokens() const { return static_cast<int64_t>(sequence_t.size()); }
};

// A cache whose pages are shuffled and filled up to each sequence's length; NaN elsewhere.
class Cache {
 public:
  Cache(const Shape& shape, DType dtype, int64_t block_size, const std::vector<int64_t>& lengths,
        uint32_t page_seed)
      : shape_(shape), dtype_(dtype), block_size_(block_size) {
    const auto num_sequences = static_cast<int64_t>(lengths.size());
    const int64_t blocks = (*std::max_element(lengths.begin(), lengths.end()) + block_size - 1) / block_size;
    std::vector<int32_t> table(static_cast<size_t>(num_sequences * blocks));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(page_seed));
    table_ = table;
    table_sb_ = {table_.data(), num_sequences, blocks};
    num_pages_ = num_sequences * blocks;
    KvPages pages = shape_of_pages();
    k_.assign(static_cast<size_t>(num_pages_ * key_layout(pages).page_bytes), std::byte{0xff});
    if (!shape.values_are_keys)
      v_.assign(static_cast<size_t>(num_pages_ * value_layout(pages).page_bytes), std::byte{0xff});
    for (int64_t s = 0; s < num_sequences; ++s) fill(s, lengths[static_cast<size_t>(s)]);
    device_k_.emplace(k_);
    device_v_.emplace(v_);
    device_table_.emplace(table_);
  }

  // out [T, H, v_dim].
  std::vector<float> expected(const Step& step) const {
    const std::vector<float> q = queries(step);
    std::vector<float> out(static_cast<size_t>(step.num_tokens() * out_row()));
    paged_attention_ref({q.data(), step.num_tokens(), shape_.num_heads, shape_.k_dim},
                        {step.sequence_t, step.position_t, table_sb_}, host_pages(), scale(),
                        {out.data(), step.num_tokens(), shape_.num_heads, shape_.v_dim});
    return out;
  }
  // num_waves: how many share the workspace.
  std::vector<float> actual(const Step& step, int64_t num_waves = 1) const {
    KvPages pages = shape_of_pages();
    pages.k = device_k_->data();
    pages.v = shape_.values_are_keys ? pages.k : device_v_->data();
    const int64_t num_tokens = step.num_tokens();
    const DeviceArray<int32_t> sequence(step.sequence_t), position(step.position_t);
    const DeviceArray<float> q(queries(step)),
        out(std::vector<float>(static_cast<size_t>(num_tokens * out_row())));
    const int64_t all_at_once =
        paged_attention_cuda_workspace(num_tokens, shape_.num_heads, pages, step.bounds.max_context);
    const int64_t tokens_per_wave = (num_tokens + num_waves - 1) / num_waves;
    const DeviceArray<std::byte> workspace(
        std::vector<std::byte>(static_cast<size_t>(all_at_once / num_tokens * tokens_per_wave)));
    paged_attention_cuda(
        nullptr, {q.data(), num_tokens, shape_.num_heads, shape_.k_dim},
        {sequence, position, {device_table_->data(), table_sb_.rows, table_sb_.cols}, step.bounds}, pages,
        scale(), workspace, {out.data(), num_tokens, shape_.num_heads, shape_.v_dim});
    return out.download();
  }
  int64_t out_row() const { return shape_.num_heads * shape_.v_dim; }

 private:
  void fill(int64_t sequence, int64_t length) {
    const auto seed = static_cast<uint32_t>(2 * sequence);
    const std::vector<float> k = random_floats(length * shape_.num_kv_heads * shape_.k_dim, seed),
                             v = random_floats(length * shape_.num_kv_heads * shape_.v_dim, seed + 1);
    std::vector<int32_t> sequence_t(static_cast<size_t>(length), static_cast<int32_t>(sequence)),
        position_t(sequence_t.size());
    std::iota(position_t.begin(), position_t.end(), 0);
    kv_write_ref({k.data(), length, shape_.num_kv_heads, shape_.k_dim},
                 {v.data(), length, shape_.num_kv_heads, shape_.v_dim}, {sequence_t, position_t, table_sb_},
                 host_pages());
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(shape_.k_dim)); }

  KvPages host_pages() const {
    KvPages pages = shape_of_pages();
    pages.k = const_cast<std::byte*>(k_.data());
    pages.v = shape_.values_are_keys ? pages.k : const_cast<std::byte*>(v_.data());
    return pages;
  }
  // Where keys and values of one buffer are told by equal addresses.
  KvPages shape_of_pages() const {
    static std::byte keys, values;
    return {.dtype = dtype_,
            .num_pages = num_pages_,
            .block_size = block_size_,
            .num_kv_heads = shape_.num_kv_heads,
            .k_dim = shape_.k_dim,
            .v_dim = shape_.v_dim,
            .v_stride = shape_.values_are_keys ? shape_.k_dim : shape_.v_dim,
            .k = &keys,
            .v = shape_.values_are_keys ? &keys : &values};
  }

  // A token's own, whatever step it is in; in bf16 already, so that on tensor cores only the probabilities
  // are rounded.
  std::vector<float> queries(const Step& step) const {
    std::vector<float> q;
    for (size_t t = 0; t < step.sequence_t.size(); ++t)
      for (const float x :
           random_floats(shape_.num_heads * shape_.k_dim,
                         static_cast<uint32_t>(1000 * step.sequence_t[t] + step.position_t[t])))
        q.push_back(to_float(to_bf16(x)));
    return q;
  }

  Shape shape_;
  DType dtype_;
  int64_t block_size_, num_pages_ = 0;
  std::vector<int32_t> table_;
  View2<const int32_t> table_sb_;
  std::vector<std::byte> k_, v_;
  std::optional<DeviceArray<std::byte>> device_k_, device_v_;
  std::optional<DeviceArray<int32_t>> device_table_;
};

// Rounding a probability to bf16 changes it by at most 2^-9 of itself, and so a result by at most 2^-9 of the
// largest value, which is below 5. What codes are worth is rounded alike: values move a result by as much
// again, keys a score by some 2^-9 of its spread of one, and that a result by less than as much. f32 pages
// are computed in fp32: error grows with the length of the sums, some hundreds.
float tolerance(DType dtype) {
  return is_kv_codes(dtype) ? 3 * 5.0f / 512 : dtype == DType::bf16 ? 5.0f / 512 : 2e-5f;
}
constexpr DType kOfTensorCores[] = {DType::bf16, DType::e4m3, DType::int8};

void expect_near(const std::vector<float>& out, const std::vector<float>& expected, float tolerance) {
  ASSERT_EQ(out.size(), expected.size());
  for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], tolerance) << "i=" << i;
}

class PagedAttentionCuda : public CudaKernels {};
INSTANTIATE_TEST_SUITE_P(Seed, PagedAttentionCuda, kSeeds);

// Lone tokens before, between and after chunks; contexts around the splits' and tiles' ends.
TEST_P(PagedAttentionCuda, MixedStepsMatchRef) {
  const std::vector<int64_t> lengths = {1, 129, 70, 261, 33, 128};
  const Step step = {{0, 0, 1}, {1, 128, 129}, {2, 0, 70}, {3, 258, 261}, {4, 32, 33}, {5, 126, 128}};
  for (const Shape& shape : {Shape{2, 2, 32, 16}, Shape{4, 2, 64, 64}, Shape{7, 1, 24, 40},
                             Shape{8, 1, 16, 8}, Shape{5, 1, 48, 24, true}, Shape{18, 1, 32, 32, true},
                             Shape{2, 1, 144, 136}, Shape{5, 1, 56, 32, true}})
    for (const DType dtype : kOfTensorCores) {  // codes of 24 or 40 are not for them
      const int64_t block_size = std::array{16, 1, 64}[GetParam() % 3];
      SCOPED_TRACE(testing::Message() << "H=" << shape.num_heads << " k_dim=" << shape.k_dim
                                      << " block=" << block_size << " " << to_string(dtype));
      const Cache cache(shape, dtype, block_size, lengths, static_cast<uint32_t>(GetParam()));
      expect_near(cache.actual(step), cache.expected(step), tolerance(dtype));
    }
}

// f32 pages, and dims that fill no 16 bytes.
TEST_P(PagedAttentionCuda, PlainShapesMatchRef) {
  const std::vector<int64_t> lengths = {300, 9, 20};
  const Step step = {{0, 299, 300}, {1, 2, 9}, {2, 19, 20}};
  for (const Shape& shape : {Shape{3, 1, 21, 18, true}, Shape{4, 2, 16, 16}, Shape{2, 2, 7, 150}})
    for (const DType dtype : {DType::f32, DType::bf16, DType::e4m3, DType::int8}) {
      if (dtype != DType::f32 && shape.k_dim == 16) continue;  // for tensor cores
      SCOPED_TRACE(testing::Message() << "k_dim=" << shape.k_dim << " " << to_string(dtype));
      const Cache cache(shape, dtype, 7, lengths, static_cast<uint32_t>(GetParam()));
      expect_near(cache.actual(step), cache.expected(step), tolerance(DType::f32));
    }
}

// The dimensions of the models that we serve.
TEST_P(PagedAttentionCuda, RealShapesMatchRef) {
  const std::vector<int64_t> lengths = {300, 37};
  const Step step = {{0, 299, 300}, {1, 34, 37}};
  for (const Shape& shape :
       {Shape{16, 1, 576, 512, true}, Shape{20, 1, 576, 512, true}, Shape{8, 1, 128, 128}})
    for (const DType dtype : kOfTensorCores) {
      SCOPED_TRACE(testing::Message()
                   << "H=" << shape.num_heads << " k_dim=" << shape.k_dim << " " << to_string(dtype));
      const Cache cache(shape, dtype, 16, lengths, static_cast<uint32_t>(GetParam()));
      expect_near(cache.actual(step), cache.expected(step), tolerance(dtype));
    }
}

// More blocks of kAttentionSplit than there are splits.
TEST_P(PagedAttentionCuda, LongContextsMatchRef) {
  const Step step = {{0, kAttentionSplit * 33 + 4, kAttentionSplit * 33 + 5}, {1, 699, 700}};
  for (const DType dtype : {DType::bf16, DType::e4m3}) {
    const Cache cache({2, 1, 16, 16}, dtype, 16, {kAttentionSplit * 33 + 5, 700}, 1);
    expect_near(cache.actual(step), cache.expected(step), tolerance(dtype));
  }
}

TEST_P(PagedAttentionCuda, ALoneTokensBitsDependOnItsOwnContextOnly) {
  const std::vector<int64_t> lengths = {40, 300, 128, 513};
  for (const auto& [shape, dtype] :
       {std::pair{Shape{6, 2, 32, 16}, DType::bf16}, std::pair{Shape{17, 1, 40, 24, true}, DType::bf16},
        std::pair{Shape{6, 2, 32, 16}, DType::e4m3}, std::pair{Shape{17, 1, 40, 32, true}, DType::int8}}) {
    const Cache cache(shape, dtype, 16, lengths, 1), other_pages(shape, dtype, 7, lengths, 2);
    const auto last = [&](int64_t s) {
      return Chunk{s, lengths[static_cast<size_t>(s)] - 1, lengths[static_cast<size_t>(s)]};
    };
    const std::vector<float> together = cache.actual({last(2), last(0), last(3), last(1)});
    EXPECT_EQ(together, cache.actual({last(2), last(0), last(3), last(1)}, 3));  // in waves
    const auto row = static_cast<int64_t>(together.size()) / 4;
    for (const auto& [at, s] : {std::pair<int64_t, int64_t>{0, 2}, {1, 0}, {2, 3}, {3, 1}})
      EXPECT_EQ(other_pages.actual({last(s)}),
                std::vector<float>(together.begin() + at * row, together.begin() + (at + 1) * row))
          << "sequence " << s;
    // Beside a chunk of another sequence.
    const std::vector<float> mixed = other_pages.actual({{1, 290, 300}, last(3)});
    EXPECT_EQ(std::vector<float>(mixed.begin() + 10 * row, mixed.end()), cache.actual({last(3)}));
  }
}

// A step padded to a graph's size: tokens at position -1 beside one of the same sequence that counts.
TEST_P(PagedAttentionCuda, PaddingIsZeroAndHidesNoToken) {
  const Cache cache({4, 2, 16, 16}, DType::bf16, 16, {200}, 1);
  Step step = {{0, 199, 200}};
  const std::vector<float> expected = cache.actual(step);
  step.sequence_t.resize(4, 0);
  step.position_t.resize(4, -1);
  step.bounds.lone.end = 4;
  const std::vector<float> out = cache.actual(step);
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + cache.out_row()), expected);
  EXPECT_TRUE(std::all_of(out.begin() + cache.out_row(), out.end(), [](float x) { return x == 0; }));
}

TEST(AttentionBounds, RangesHoldLoneTokensAndTheOthers) {
  const std::vector<int32_t> sequence = {4, 2, 2, 7, 1, 1, 3}, position = {9, 0, 1, 30, 5, 6, 2};
  const AttentionBounds bounds = attention_bounds(sequence, position);
  EXPECT_EQ(bounds.max_context, 31);
  EXPECT_EQ(bounds.lone.begin, 0);
  EXPECT_EQ(bounds.lone.end, 7);
  EXPECT_EQ(bounds.others.begin, 1);
  EXPECT_EQ(bounds.others.end, 6);
  EXPECT_TRUE(attention_bounds({}, {}).lone.empty());
}

}  // namespace
}  // namespace guildhall
