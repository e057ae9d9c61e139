// row_codec_test.cc: rows encoded, decoded and summed on the device have the CPU's bytes and bits.
#include "kernels/row_codec.h"

#include <cmath>
#include <limits>

#include "kernels/combine_encoded.h"
#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using RowCodec = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, RowCodec, kSeeds);

constexpr Codec kCodecs[] = {Codec::f32, Codec::bf16, Codec::fp8};
constexpr int64_t kColumns[] = {1, 3, 44, 127, 128, 130, 516};

std::vector<std::byte> encode_all(Codec codec, const std::vector<float>& x, int64_t rows, int64_t cols) {
  const size_t bytes = row_bytes(codec, static_cast<uint64_t>(cols));
  std::vector<std::byte> out(static_cast<size_t>(rows) * bytes);
  for (int64_t r = 0; r < rows; ++r)
    encode_row(codec, std::span(x).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)),
               out.data() + static_cast<size_t>(r) * bytes);
  return out;
}

TEST_P(RowCodec, BytesAreTheCpusAndComeBack) {
  for (const Codec codec : kCodecs)
    for (const int64_t cols : kColumns)
      for (const Layout& layout : kLayouts) {
        constexpr int64_t kRows = 3;
        SCOPED_TRACE(testing::Message() << "codec " << static_cast<int>(codec) << " H=" << cols);
        std::vector<float> x = random_floats(kRows * cols, 17);
        x[0] = std::numeric_limits<float>::infinity();
        const std::vector<std::byte> want = encode_all(codec, x, kRows, cols);
        std::vector<float> want_back(x.size());
        for (size_t r = 0; r < kRows; ++r)
          decode_row(codec, want.data() + r * want.size() / kRows,
                     std::span(want_back).subspan(r * static_cast<size_t>(cols), static_cast<size_t>(cols)));
        const DeviceMatrix<float> device_x(x, kRows, cols, layout), back(x, kRows, cols, layout);
        const DeviceArray<std::byte> rows(std::vector<std::byte>(want.size(), std::byte{0x77}));
        encode_rows_cuda(nullptr, codec, device_x, rows.data());
        decode_rows_cuda(nullptr, codec, rows.data(), back);
        EXPECT_TRUE(same_bytes(rows.download(), want));
        EXPECT_TRUE(same_bytes(back.download(), want_back));
      }
}

// Choices without a row, weights or none, and y that has something already.
TEST_P(RowCodec, SumsHaveTheCpusBits) {
  constexpr int64_t kTokens = 3, kTopK = 5, kRows = 9;
  Team team{TeamOptions{}};
  for (const Codec codec : kCodecs)
    for (const int64_t cols : kColumns)
      for (const bool weighted : {false, true}) {
        SCOPED_TRACE(testing::Message() << "codec " << static_cast<int>(codec) << " H=" << cols);
        const std::vector<std::byte> rows = encode_all(codec, random_floats(kRows * cols, 5), kRows, cols);
        const size_t bytes = row_bytes(codec, static_cast<uint64_t>(cols));
        std::vector<EncodedRow> row_tk;
        for (int64_t i = 0; i < kTokens * kTopK; ++i) {
          const auto index = static_cast<int32_t>(i * 7 % (kRows + 2)) - 2;  // -2, -1: none
          row_tk.push_back({index < 0 ? nullptr : rows.data() + static_cast<size_t>(index) * bytes, codec});
        }
        const std::vector<float> weight_tk =
            weighted ? std::vector<float>(kTokens * kTopK, 1.0f) : random_floats(kTokens * kTopK, 6);
        std::vector<float> want = random_floats(kTokens * cols, 7);
        const DeviceMatrix<float> y(want, kTokens, cols), weights(weight_tk, kTokens, kTopK);
        const DeviceArray<std::byte> device_rows(rows);
        std::vector<const std::byte*> at_tk;
        for (const EncodedRow& row : row_tk)
          at_tk.push_back(row.row == nullptr ? nullptr : device_rows.data() + (row.row - rows.data()));
        const DeviceMatrix<const std::byte*> at(at_tk, kTokens, kTopK);
        combine_encoded_cpu(team, {row_tk.data(), kTokens, kTopK}, as_view(weight_tk, kTokens, kTopK),
                            as_view(want, kTokens, cols));
        combine_encoded_cuda(nullptr, codec, at, bytes % 16 == 0,
                             weighted ? View2<const float>{} : weights.view(), y);
        EXPECT_TRUE(same_bytes(y.download(), want));
      }
}

}  // namespace
}  // namespace guildhall
