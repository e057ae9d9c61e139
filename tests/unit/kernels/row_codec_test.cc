// row_codec_test.cc: a row's bytes are laid out as WIRE.md says and fill exactly row_bytes.
#include "kernels/row_codec.h"

#include <cstring>

#include "kernel_fixture.h"
#include "kernels/fp8.h"

namespace guildhall {
namespace {

using RowCodec = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, RowCodec, testing::ValuesIn(available_isas()), isa_name);

// The row's bytes, 4-byte aligned, with a guard after them.
std::vector<std::byte> encode(Codec codec, const std::vector<float>& x) {
  std::vector<std::byte> row(row_bytes(codec, x.size()) + 1, std::byte{0x5a});
  encode_row(codec, x, row.data());
  EXPECT_EQ(row.back(), std::byte{0x5a});
  row.pop_back();
  return row;
}

TEST_P(RowCodec, Fp8IsCodesThenZerosThenScales) {
  for (const int64_t hidden : {1, 44, 127, 130, 259}) {
    const std::vector<float> x = random_floats(hidden, 2, 8);
    std::vector<uint8_t> codes(x.size());
    std::vector<float> scales(static_cast<size_t>(fp8_groups(hidden)));
    to_fp8_ref(x, codes, scales);
    std::vector<std::byte> expected(row_bytes(Codec::fp8, x.size()), std::byte{0});
    std::memcpy(expected.data(), codes.data(), codes.size());
    std::memcpy(expected.data() + fp8_scales_offset(x.size()), scales.data(), scales.size() * 4);
    EXPECT_EQ(encode(Codec::fp8, x), expected) << hidden;
  }
}

TEST_P(RowCodec, DecodingGivesWhatTheCodecKeeps) {
  for (const int64_t hidden : {0, 1, 44, 129, 300}) {
    const std::vector<float> x = random_floats(hidden, 3);
    std::vector<float> back(x.size());
    decode_row(Codec::f32, encode(Codec::f32, x).data(), back);
    EXPECT_EQ(back, x);
    decode_row(Codec::bf16, encode(Codec::bf16, x).data(), back);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], to_float(to_bf16(x[i])));
    decode_row(Codec::fp8, encode(Codec::fp8, x).data(), back);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(back[i], x[i], std::abs(x[i]) / 16 + 1e-4f);
  }
}

}  // namespace
}  // namespace guildhall
