// alignment_test.cc: each operand alone decides whether a kernel may move 16 bytes at a time: with any one of
// them off alignment, and the others on it, nothing faults and the results are those of aligned operands.
#include <functional>

#include "kernels/combine.h"
#include "kernels/convert.h"
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/fp8.h"
#include "kernels/fp8_weight.h"
#include "kernels/paged_attention.h"
#include "kernels/permute.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using Alignment = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Alignment, kSeeds);

constexpr int64_t kRows = 3, kCols = 64, kSize = kRows * kCols;

// How operand i lies.
struct Operands {
  int odd = -1;
  Layout operator[](int i) const { return i == odd ? Layout{5, 1} : Layout{}; }
  size_t shift(int i) const { return (*this)[i].shift; }
};
using Kernel = std::function<std::vector<float>(const Operands&)>;

void expect_each_operand_free(int num_operands, const Kernel& kernel) {
  const std::vector<float> want = kernel({});
  for (int odd = 0; odd < num_operands; ++odd) {
    const std::vector<float> got = kernel({odd});
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], want[i], 1e-6 * (1 + std::abs(want[i]))) << "operand " << odd << " at " << i;
  }
}

DeviceMatrix<float> floats(uint32_t seed, Layout layout) {
  return {random_floats(kSize, seed), kRows, kCols, layout};
}
std::vector<float> widened(const std::vector<bf16>& x) {
  std::vector<float> y(x.size());
  from_bf16_ref(x, y.data());
  return y;
}

TEST_P(Alignment, Norms) {
  expect_each_operand_free(3, [](const Operands& o) {
    const auto x = floats(1, o[0]), y = floats(2, o[1]);
    const DeviceArray<float> weight(random_floats(kCols, 3), o.shift(2));
    rmsnorm_cuda(nullptr, x, weight, 1e-6f, y);
    return y.download();
  });
  expect_each_operand_free(4, [](const Operands& o) {
    const auto y = floats(1, o[0]), x = floats(2, o[1]), normed = floats(3, o[2]);
    const DeviceArray<float> weight(random_floats(kCols, 3), o.shift(3));
    add_rmsnorm_cuda(nullptr, y, weight, 1e-6f, x, normed);
    return normed.download();
  });
  expect_each_operand_free(2, [](const Operands& o) {
    const auto y = floats(1, o[0]), x = floats(2, o[1]);
    add_cuda(nullptr, y, x);
    return x.download();
  });
}

TEST_P(Alignment, EmbeddingAndRope) {
  expect_each_operand_free(2, [](const Operands& o) {
    const DeviceArray<float> w(random_floats(kSize, 1), o.shift(0));
    const DeviceArray<int32_t> ids(std::vector<int32_t>{2, 0, 2});
    const auto x = floats(2, o[1]);
    embedding_cuda(nullptr, ids, {w.data(), DType::f32, kRows, kCols}, x);
    return x.download();
  });
  for (RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
    expect_each_operand_free(3, [&](const Operands& o) {
      const RopeTable table = make_rope_table({.dim = kCols / 2}, 9);
      const DeviceArray<float> cos(table.cos_pd, o.shift(0)), sin(table.sin_pd, o.shift(1));
      const DeviceArray<int32_t> positions(std::vector<int32_t>{8, 0, 3});
      const auto x = floats(2, o[2]);
      rope_cuda(nullptr, {kCols / 2, cos.span(), sin.span()}, pairing, positions, x.heads(2));
      return x.download();
    });
  }
}

TEST_P(Alignment, RowMoves) {
  expect_each_operand_free(2, [](const Operands& o) {
    const DeviceMatrix<float> gate_up(random_floats(2 * kSize, 1), kRows, 2 * kCols, o[0]);
    const auto y = floats(2, o[1]);
    swiglu_cuda(nullptr, gate_up, y);
    return y.download();
  });
  expect_each_operand_free(2, [](const Operands& o) {
    const auto x = floats(1, o[0]), y = floats(2, o[1]);
    copy_cuda(nullptr, x.heads(4), y.heads(4));
    return y.download();
  });
  const DeviceArray<int32_t> some(std::vector<int32_t>{2, 0, 1});
  expect_each_operand_free(2, [&](const Operands& o) {
    const auto x = floats(1, o[0]), y = floats(2, o[1]);
    permute_cuda(nullptr, x, some, some, y);
    return y.download();
  });
  expect_each_operand_free(2, [&](const Operands& o) {
    const auto rows = floats(1, o[0]), y = floats(2, o[1]);
    const DeviceArray<float> weight(random_floats(kRows, 3));
    combine_cuda(nullptr, rows, {some.data(), kRows, 1}, {weight.data(), kRows, 1}, y);
    return y.download();
  });
}

TEST_P(Alignment, Conversions) {
  expect_each_operand_free(3, [](const Operands& o) {
    const auto x = floats(1, o[0]), back = floats(2, o[2]);
    const DeviceMatrix<bf16> y(std::vector<bf16>(kSize), kRows, kCols, o[1]);
    to_bf16_cuda(nullptr, x, y);
    from_bf16_cuda(nullptr, y, back);
    return back.download();
  });
  const DeviceMatrix<float> scale(std::vector<float>(kRows, 2), kRows, 1);
  expect_each_operand_free(3, [&](const Operands& o) {
    const auto x = floats(1, o[0]), back = floats(2, o[2]);
    const DeviceMatrix<uint8_t> code(std::vector<uint8_t>(kSize), kRows, kCols, o[1]);
    to_fp8_cuda(nullptr, x, code, scale);
    from_fp8_cuda(nullptr, code, scale, back);
    return back.download();
  });
  expect_each_operand_free(2, [&](const Operands& o) {
    const DeviceMatrix<uint8_t> code(std::vector<uint8_t>(kSize, 0x39), kRows, kCols, o[0]);
    const DeviceMatrix<bf16> w(std::vector<bf16>(kSize), kRows, kCols, o[1]);
    dequantize_fp8_weight_cuda(nullptr, code, scale.view().first_rows(1), w);
    return widened(w.download());
  });
}

TEST_P(Alignment, KeysAndValues) {
  expect_each_operand_free(4, [](const Operands& o) {
    const auto k = floats(1, o[0]), v = floats(2, o[1]);
    const DeviceArray<bf16> k_pages(std::vector<bf16>(4 * kCols), o.shift(2)),
        v_pages(std::vector<bf16>(4 * kCols), o.shift(3));
    const DeviceArray<int32_t> sequence(std::vector<int32_t>{0, 0, 0}),
        position(std::vector<int32_t>{0, 1, 2}), table(std::vector<int32_t>{1, 0});
    constexpr int64_t kHeads = 2, kDim = kCols / kHeads;
    kv_write_cuda(nullptr, k.heads(kHeads), v.heads(kHeads), {sequence, position, {table.data(), 1, 2}},
                  {DType::bf16, 2, 2, kHeads, kDim, kDim, kDim, k_pages.data(), v_pages.data()});
    std::vector<float> written = widened(k_pages.download()), values = widened(v_pages.download());
    written.insert(written.end(), values.begin(), values.end());
    return written;
  });
}

}  // namespace
}  // namespace guildhall
