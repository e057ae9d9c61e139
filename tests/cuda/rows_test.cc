// rows_test.cc: kernels that work through rows (embedding, norms, RoPE, SwiGLU, copies) against ref, at odd
// sizes, dense, strided and off alignment.
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using Rows = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Rows, kSeeds);

struct Size {
  int64_t rows, cols;
};
// 1500: every row in one block; 5000: one row in several.
const Size kSizes[] = {{0, 8},   {1, 1},   {2, 3},    {3, 31},   {9, 33},
                       {1, 127}, {5, 128}, {3, 1000}, {1, 5000}, {1500, 4}};

void expect_close(const std::vector<float>& got, const std::vector<float>& want, double relative,
                  const Size& s) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], relative * (1 + std::abs(want[i])))
        << s.rows << "x" << s.cols << " at " << i;
}

template <class Body>
void for_sizes_and_layouts(Body body) {
  for (const Size& s : kSizes)
    for (const Layout& layout : kLayouts) body(s, layout);
}

TEST_P(Rows, EmbeddingCopiesTheRowsOfItsIds) {
  for_sizes_and_layouts([](const Size& s, const Layout& layout) {
    constexpr int64_t kVocabulary = 11;
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < s.rows; ++t)
      ids.push_back(static_cast<int32_t>((t * 7 + 10) % (kVocabulary + 1)) - 1);
    for (DType dtype : {DType::f32, DType::bf16}) {
      const OwnedWeight w(kVocabulary, s.cols, dtype, 3);
      std::vector<float> want(static_cast<size_t>(s.rows * s.cols));
      embedding_ref(ids, w.view, as_view(want, s.rows, s.cols));
      const auto* bytes = static_cast<const unsigned char*>(w.view.data);
      const DeviceArray<unsigned char> table(
          std::span(bytes, static_cast<size_t>(kVocabulary * s.cols * dtype_bytes(dtype))), layout.shift * 4);
      const DeviceArray<int32_t> device_ids(ids);
      const DeviceMatrix<float> x(std::vector<float>(want.size(), -7), s.rows, s.cols, layout);
      embedding_cuda(nullptr, device_ids, {table.data(), dtype, kVocabulary, s.cols}, x);
      EXPECT_TRUE(same_bytes(x.download(), want)) << s.rows << "x" << s.cols << " " << to_string(dtype);
    }
  });
}

TEST_P(Rows, NormsMatchRef) {
  for_sizes_and_layouts([](const Size& s, const Layout& layout) {
    const std::vector<float> x = random_floats(s.rows * s.cols, 5, 3), weight = random_floats(s.cols, 6);
    std::vector<float> want(x.size());
    rmsnorm_ref(as_view(x, s.rows, s.cols), weight, 1e-5f, as_view(want, s.rows, s.cols));
    const DeviceArray<float> device_weight(weight, layout.shift);
    const DeviceMatrix<float> device_x(x, s.rows, s.cols, layout), y(want, s.rows, s.cols);
    rmsnorm_cuda(nullptr, device_x, device_weight, 1e-5f, y);
    expect_close(y.download(), want, 1e-6, s);
    rmsnorm_cuda(nullptr, device_x, device_weight, 1e-5f, device_x);  // in place
    EXPECT_TRUE(same_bytes(device_x.download(), y.download()));
  });
}

TEST_P(Rows, AdditionIsRefs) {
  for_sizes_and_layouts([](const Size& s, const Layout& layout) {
    const std::vector<float> y = random_floats(s.rows * s.cols, 7);
    std::vector<float> x = random_floats(s.rows * s.cols, 8);
    const DeviceMatrix<float> device_y(y, s.rows, s.cols), device_x(x, s.rows, s.cols, layout);
    add_cuda(nullptr, device_y, device_x);
    add_ref(as_view(y, s.rows, s.cols), as_view(x, s.rows, s.cols));
    EXPECT_TRUE(same_bytes(device_x.download(), x)) << s.rows << "x" << s.cols;
  });
}

TEST_P(Rows, AdditionFusedWithTheNormHasTheBitsOfBoth) {
  for_sizes_and_layouts([](const Size& s, const Layout& layout) {
    const std::vector<float> y = random_floats(s.rows * s.cols, 7), x = random_floats(s.rows * s.cols, 8);
    const std::vector<float> unwritten(x.size(), -7);
    const DeviceArray<float> weight(random_floats(s.cols, 9), layout.shift);
    const DeviceMatrix<float> device_y(y, s.rows, s.cols, layout);
    const DeviceMatrix<float> two_x(x, s.rows, s.cols, layout), two_normed(unwritten, s.rows, s.cols, layout);
    add_cuda(nullptr, device_y, two_x);
    rmsnorm_cuda(nullptr, two_x, weight, 1e-6f, two_normed);
    const DeviceMatrix<float> x_one(x, s.rows, s.cols, layout), normed(unwritten, s.rows, s.cols, layout);
    add_rmsnorm_cuda(nullptr, device_y, weight, 1e-6f, x_one, normed);
    EXPECT_TRUE(same_bytes(x_one.download(), two_x.download())) << s.rows << "x" << s.cols;
    EXPECT_TRUE(same_bytes(normed.download(), two_normed.download())) << s.rows << "x" << s.cols;
  });
}

TEST_P(Rows, ARowAloneHasTheSameBits) {
  for (int64_t cols : {96, 3000}) {
    const std::vector<float> x = random_floats(7 * cols, 10);
    const DeviceArray<float> weight(random_floats(cols, 11));
    const DeviceMatrix<float> all(x, 7, cols),
        alone({x.data() + 4 * cols, static_cast<size_t>(cols)}, 1, cols);
    rmsnorm_cuda(nullptr, all, weight, 1e-6f, all);
    rmsnorm_cuda(nullptr, alone, weight, 1e-6f, alone);
    const std::vector<float> rows = all.download();
    EXPECT_TRUE(
        same_bytes(alone.download(), std::vector<float>(rows.begin() + 4 * cols, rows.begin() + 5 * cols)));
  }
}

TEST_P(Rows, SwigluMatchesRef) {
  for_sizes_and_layouts([](const Size& s, const Layout& layout) {
    const std::vector<float> gate_up = random_floats(s.rows * 2 * s.cols, 12, 4);
    std::vector<float> want(static_cast<size_t>(s.rows * s.cols), -7);
    const DeviceMatrix<float> device_gate_up(gate_up, s.rows, 2 * s.cols, layout),
        y(want, s.rows, s.cols, layout);
    swiglu_cuda(nullptr, device_gate_up, y);
    swiglu_ref(as_view(gate_up, s.rows, 2 * s.cols), as_view(want, s.rows, s.cols));
    expect_close(y.download(), want, 1e-6, s);
  });
}

TEST_P(Rows, SwigluOfExtremesStaysFinite) {
  const std::vector<float> gate_up{-200, 200, 0, -0.0f, 3, 3, 3, 3};
  const DeviceMatrix<float> device_gate_up(gate_up, 1, 8), y(std::vector<float>(4), 1, 4);
  swiglu_cuda(nullptr, device_gate_up, y);
  EXPECT_EQ(y.download(), (std::vector<float>{0, 600, 0, 0}));
}

TEST_P(Rows, RopeMatchesRef) {
  struct Case {
    int64_t tokens, heads, dim;
  };
  const RopeParams base{.theta = 10000};
  for (const Case& c : {Case{0, 2, 8}, {1, 1, 2}, {3, 5, 6}, {2, 3, 64}, {7, 1, 128}, {2, 40, 30}}) {
    for (RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
      for (const Layout& layout : kLayouts) {
        RopeParams params = base;
        params.dim = c.dim;
        const RopeTable table = make_rope_table(params, 50);
        const DeviceArray<float> cos(table.cos_pd, layout.shift), sin(table.sin_pd, layout.shift);
        std::vector<int32_t> positions;
        for (int64_t t = 0; t < c.tokens; ++t) positions.push_back(static_cast<int32_t>((t * 31 + 49) % 50));
        std::vector<float> x = random_floats(c.tokens * c.heads * c.dim, 13);
        const DeviceMatrix<float> device_x(x, c.tokens, c.heads * c.dim, layout);
        const DeviceArray<int32_t> device_positions(positions);
        rope_cuda(nullptr, {c.dim, cos.span(), sin.span()}, pairing, device_positions,
                  device_x.heads(c.heads));
        rope_ref(table, pairing, positions, View3<float>(x.data(), c.tokens, c.heads, c.dim));
        expect_close(device_x.download(), x, 1e-6, {c.tokens * c.heads, c.dim});
      }
    }
  }
}

// The rotated dimensions are the last of each head's (MLA).
TEST_P(Rows, RopeLeavesTheOtherDimensionsAlone) {
  const RopeTable table = make_rope_table({.dim = 8}, 20);
  const DeviceArray<float> cos(table.cos_pd), sin(table.sin_pd);
  const std::vector<int32_t> positions{3, 19};
  std::vector<float> x = random_floats(2 * 3 * 20, 14);
  const DeviceMatrix<float> device_x(x, 2, 60);
  const DeviceArray<int32_t> device_positions(positions);
  rope_cuda(nullptr, {8, cos.span(), sin.span()}, RopePairing::interleaved, device_positions,
            device_x.heads(3).sub2(12, 8));
  rope_ref(table, RopePairing::interleaved, positions, View3<float>(x.data(), 2, 3, 20).sub2(12, 8));
  expect_close(device_x.download(), x, 1e-6, {6, 20});
}

TEST_P(Rows, CopiesBetweenStrides) {
  struct Case {
    int64_t tokens, heads, dim;
  };
  for (const Case& c : {Case{0, 1, 4}, {1, 1, 1}, {3, 5, 7}, {2, 16, 64}, {5, 3, 33}, {1, 1, 1000}}) {
    for (const Layout& layout : kLayouts) {
      const int64_t cols = c.heads * c.dim;
      const std::vector<float> x = random_floats(c.tokens * cols, 15);
      std::vector<float> want(x.size());
      copy_ref(View3<const float>(x.data(), c.tokens, c.heads, c.dim),
               View3<float>(want.data(), c.tokens, c.heads, c.dim));
      const DeviceMatrix<float> from(x, c.tokens, cols, layout),
          to(std::vector<float>(x.size(), -7), c.tokens, cols);
      copy_cuda(nullptr, from.heads(c.heads), to.heads(c.heads));
      EXPECT_TRUE(same_bytes(to.download(), want));
    }
  }
}

TEST_P(Rows, CopiesAPartOfEachHead) {
  std::vector<float> x = random_floats(2 * 3 * 12, 16), y(2 * 3 * 8, -7);
  const DeviceMatrix<float> from(x, 2, 36), to(y, 2, 24);
  copy_cuda(nullptr, from.heads(3).sub2(5, 7), to.heads(3).sub2(1, 7));
  copy_cpu(View3<float>(x.data(), 2, 3, 12).sub2(5, 7), View3<float>(y.data(), 2, 3, 8).sub2(1, 7));
  EXPECT_TRUE(same_bytes(to.download(), y));
}

}  // namespace
}  // namespace guildhall
