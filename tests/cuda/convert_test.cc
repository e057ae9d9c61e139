// convert_test.cc: bf16 and fp8 rows, dequantised weights and the KV cache's rows: ref's bytes.
#include "kernels/convert.h"

#include <algorithm>
#include <limits>

#include "kernels/fp8.h"
#include "kernels/fp8_weight.h"
#include "kernels/paged_attention.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using Convert = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Convert, kSeeds);

constexpr int64_t kColumns[] = {1, 3, 31, 33, 127, 128, 129, 1000};

// Every exponent, either sign, values between codes, infinities and NaNs.
std::vector<float> probes(int64_t n) {
  std::vector<float> x = random_floats(n, 31);
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = static_cast<uint32_t>(i) * 0x9e3779b9u;
    if (i % 3 == 0) x[static_cast<size_t>(i)] = std::bit_cast<float>(bits);
    if (i % 97 == 5)
      x[static_cast<size_t>(i)] = std::numeric_limits<float>::infinity() * (i % 2 == 0 ? 1 : -1);
  }
  return x;
}

TEST_P(Convert, Bf16RowsAreRefs) {
  for (int64_t cols : kColumns) {
    for (const Layout& layout : kLayouts) {
      constexpr int64_t kRows = 3;
      const std::vector<float> x = probes(kRows * cols);
      std::vector<bf16> want(x.size());
      std::vector<float> want_back(x.size());
      to_bf16_ref(x, want.data());
      from_bf16_ref(want, want_back.data());
      const DeviceMatrix<float> device_x(x, kRows, cols, layout), back(want_back, kRows, cols, layout);
      const DeviceMatrix<bf16> y(std::vector<bf16>(x.size()), kRows, cols, layout);
      to_bf16_cuda(nullptr, device_x, y);
      from_bf16_cuda(nullptr, y, back);
      EXPECT_TRUE(same_bytes(y.download(), want)) << cols;
      EXPECT_TRUE(same_bytes(back.download(), want_back)) << cols;
    }
  }
}

struct Encoded {
  std::vector<uint8_t> code_th;
  std::vector<float> scale_tg;
};
Encoded encode_ref(const std::vector<float>& x, int64_t rows, int64_t cols) {
  const int64_t groups = fp8_groups(cols);
  Encoded out{std::vector<uint8_t>(x.size()), std::vector<float>(static_cast<size_t>(rows * groups))};
  for (int64_t t = 0; t < rows; ++t)
    to_fp8_ref(std::span(x).subspan(t * cols, cols), std::span(out.code_th).subspan(t * cols, cols),
               std::span(out.scale_tg).subspan(t * groups, groups));
  return out;
}

TEST_P(Convert, Fp8RowsAreRefs) {
  for (int64_t cols : kColumns) {
    for (const Layout& layout : kLayouts) {
      constexpr int64_t kRows = 2;
      const int64_t groups = fp8_groups(cols);
      std::vector<float> x = probes(kRows * cols);
      if (cols == 33) std::fill(x.begin(), x.end(), 0.0f);  // a scale of 2^-126
      const Encoded want = encode_ref(x, kRows, cols);
      const DeviceMatrix<float> device_x(x, kRows, cols, layout),
          scale(std::vector<float>(static_cast<size_t>(kRows * groups)), kRows, groups, layout),
          back(x, kRows, cols, layout);
      const DeviceMatrix<uint8_t> code(std::vector<uint8_t>(x.size()), kRows, cols, layout);
      to_fp8_cuda(nullptr, device_x, code, scale);
      from_fp8_cuda(nullptr, code, scale, back);
      EXPECT_TRUE(same_bytes(code.download(), want.code_th)) << cols;
      EXPECT_TRUE(same_bytes(scale.download(), want.scale_tg)) << cols;
      const DeviceMatrix<float> columns(std::vector<float>(want.scale_tg.size()), groups, kRows, layout);
      to_fp8_columns_cuda(nullptr, device_x, code, columns);
      const std::vector<float> by_group = columns.download();
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t t = 0; t < kRows; ++t)
          EXPECT_TRUE(same_bits(by_group[g * kRows + t], want.scale_tg[t * groups + g])) << cols;
      std::vector<float> want_back(x.size());
      for (int64_t t = 0; t < kRows; ++t)
        from_fp8_ref(std::span(want.code_th).subspan(t * cols, cols),
                     std::span(want.scale_tg).subspan(t * groups, groups),
                     std::span(want_back).subspan(t * cols, cols));
      EXPECT_TRUE(same_bytes(back.download(), want_back)) << cols;
    }
  }
}

// One group per code: every value of the format and its neighbours, the group's scale being 1.
TEST_P(Convert, Fp8RoundsLikeRefAroundEveryCode) {
  std::vector<float> x;
  for (int code = 0; code < 126; ++code) {
    uint8_t codes[] = {static_cast<uint8_t>(code), static_cast<uint8_t>(code + 1)};
    const float one = 1;
    float v[2];
    from_fp8_ref(codes, {&one, 1}, v);
    const float middle = (v[0] + v[1]) / 2;
    for (float probe : {v[0], std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 999.0f)})
      for (float sign : {1.0f, -1.0f}) x.push_back(sign * probe);
    x.insert(x.end(), 119, 0.0f);
    x.push_back(448);
  }
  const auto cols = static_cast<int64_t>(x.size());
  const Encoded want = encode_ref(x, 1, cols);
  const DeviceMatrix<float> device_x(x, 1, cols), scale(want.scale_tg, 1, fp8_groups(cols));
  const DeviceMatrix<uint8_t> code(std::vector<uint8_t>(x.size()), 1, cols);
  to_fp8_cuda(nullptr, device_x, code, scale);
  EXPECT_TRUE(same_bytes(code.download(), want.code_th));
  EXPECT_TRUE(same_bytes(scale.download(), want.scale_tg));
}

TEST_P(Convert, BlockScaledWeightsAreRefs) {
  for (int64_t rows : {1, 130}) {
    for (int64_t cols : {1, 33, 136, 300}) {
      for (const Layout& layout : kLayouts) {
        std::vector<uint8_t> code(static_cast<size_t>(rows * cols));
        for (size_t i = 0; i < code.size(); ++i) code[i] = static_cast<uint8_t>(i * 37);
        const int64_t scale_rows = fp8_blocks(rows), scale_cols = fp8_blocks(cols);
        const std::vector<float> scale = random_floats(scale_rows * scale_cols, 41);
        std::vector<bf16> want(code.size());
        dequantize_fp8_weight_ref(as_view(code, rows, cols), as_view(scale, scale_rows, scale_cols),
                                  as_view(want, rows, cols));
        const DeviceMatrix<uint8_t> device_code(code, rows, cols, layout);
        const DeviceMatrix<float> device_scale(scale, scale_rows, scale_cols, layout);
        const DeviceMatrix<bf16> w(std::vector<bf16>(code.size()), rows, cols, layout);
        dequantize_fp8_weight_cuda(nullptr, device_code, device_scale, w);
        EXPECT_TRUE(same_bytes(w.download(), want)) << rows << "x" << cols;
      }
    }
  }
}

TEST_P(Convert, EmptyRowsLaunchNothing) {
  to_bf16_cuda(nullptr, {}, {});
  from_bf16_cuda(nullptr, {}, {});
  to_fp8_cuda(nullptr, {}, {}, {});
  from_fp8_cuda(nullptr, {}, {}, {});
  dequantize_fp8_weight_cuda(nullptr, {}, {}, {});
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

struct Cache {
  DType dtype;
  int64_t kv_heads, k_dim, v_dim;
  bool shared_values;  // MLA: the values are the first elements of the keys
};

// Five tokens of two sequences, one of them the padding of a captured batch.
struct Step {
  std::vector<int32_t> sequence{0, 1, 0, -1, 1};
  std::vector<int32_t> position{0, 6, 5, 3, 7};
  std::vector<int32_t> block_table{3, 0, 2, 4};
  int64_t tokens() const { return static_cast<int64_t>(sequence.size()); }
};

constexpr int64_t kNumPages = 5, kBlockSize = 4;

KvPages pages_at(const Cache& c, void* k, void* v) {
  return {c.dtype,
          kNumPages,
          kBlockSize,
          c.kv_heads,
          c.k_dim,
          c.v_dim,
          c.shared_values ? c.k_dim : c.v_dim,
          k,
          c.shared_values ? k : v};
}

void expect_written(const Cache& c, const Layout& layout) {
  const Step step;
  const int64_t tokens = step.tokens(), k_cols = c.kv_heads * c.k_dim, v_cols = c.kv_heads * c.v_dim;
  std::vector<float> k = random_floats(tokens * k_cols, 51), v = random_floats(tokens * v_cols, 52);
  k[1] = std::numeric_limits<float>::infinity();
  v[static_cast<size_t>(v_cols)] = std::nanf("");
  unsigned char keys = 0, values = 0;  // addresses that tell whether they are shared
  const KvPages shape = pages_at(c, &keys, &values);
  std::vector<unsigned char> k_pages(static_cast<size_t>(kNumPages * key_layout(shape).page_bytes), 0x11),
      v_pages(static_cast<size_t>(kNumPages * value_layout(shape).page_bytes), 0x22);
  const DeviceArray<unsigned char> device_k_pages(k_pages), device_v_pages(v_pages);
  const DeviceMatrix<float> device_k(k, tokens, k_cols, layout), device_v(v, tokens, v_cols, layout);
  const DeviceArray<int32_t> sequence(step.sequence), position(step.position);
  // A third row before the table's: where a negative sequence would find a page to write to.
  const DeviceArray<int32_t> table(std::vector<int32_t>{1, 1, 3, 0, 2, 4});
  const View2<const int32_t> block_table_sb(table.data() + 2, 2, 2);
  kv_write_cuda(nullptr, device_k.heads(c.kv_heads), device_v.heads(c.kv_heads),
                {sequence, position, block_table_sb},
                pages_at(c, device_k_pages.data(), device_v_pages.data()));

  for (int64_t t = 0; t < tokens; ++t) {  // ref has no padding
    if (step.sequence[t] < 0) continue;
    kv_write_ref(View3<const float>(k.data() + t * k_cols, 1, c.kv_heads, c.k_dim),
                 View3<const float>(v.data() + t * v_cols, 1, c.kv_heads, c.v_dim),
                 {std::span(step.sequence).subspan(t, 1), std::span(step.position).subspan(t, 1),
                  as_view(step.block_table, 2, 2)},
                 pages_at(c, k_pages.data(), v_pages.data()));
  }
  EXPECT_TRUE(same_bytes(device_k_pages.download(), k_pages));
  EXPECT_TRUE(same_bytes(device_v_pages.download(), v_pages));
}

TEST_P(Convert, KeysAndValuesGoToTheirPages) {
  for (DType dtype : {DType::f32, DType::bf16, DType::e4m3, DType::int8}) {
    for (const Layout& layout : kLayouts) {
      for (const Cache& c : {Cache{dtype, 2, 64, 64, false}, Cache{dtype, 3, 7, 5, false},
                             Cache{dtype, 4, 8, 4, false}, Cache{dtype, 2, 130, 260, false},
                             Cache{dtype, 1, 576, 512, true}, Cache{dtype, 1, 45, 33, true}}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << c.kv_heads << "x" << c.k_dim);
        expect_written(c, layout);
      }
    }
  }
}

}  // namespace
}  // namespace guildhall
