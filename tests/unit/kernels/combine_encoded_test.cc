// combine_encoded_test.cc: rows summed off the wire have the bits of rows decoded first.
#include "kernels/combine_encoded.h"

#include "kernel_fixture.h"
#include "kernels/combine.h"
#include "kernels/row_codec.h"
#include "proto/codec.h"

namespace guildhall {
namespace {

using CombineEncoded = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, CombineEncoded, testing::ValuesIn(available_isas()), isa_name);

TEST_P(CombineEncoded, HasTheBitsOfDecodingFirstInEveryCodecAndTeam) {
  constexpr int64_t kTokens = 7, kTopK = 5;
  for (const Codec codec : {Codec::f32, Codec::bf16, Codec::fp8}) {
    for (int64_t hidden : {1, 3, 128, 129, 3000}) {
      const int64_t num_rows = kTokens * kTopK;
      const size_t row_bytes =
          frame_layout({.num_rows = 1, .hidden = static_cast<uint32_t>(hidden), .codec = codec}).row_bytes;
      const std::vector<float> x = random_floats(num_rows * hidden, 1), weight = random_floats(num_rows, 2);
      std::vector<uint64_t> memory(static_cast<size_t>(num_rows) * (row_bytes / 8 + 1));
      auto* wire = reinterpret_cast<std::byte*>(memory.data());
      std::vector<float> decoded(x.size());
      std::vector<EncodedRow> row(static_cast<size_t>(num_rows));
      std::vector<int32_t> index(row.size());
      for (int64_t i = 0; i < num_rows; ++i) {
        const auto at = static_cast<size_t>(i), h = static_cast<size_t>(hidden);
        std::byte* const bytes = wire + at * (row_bytes / 8 + 1) * 8;
        encode_row(codec, std::span(x).subspan(at * h, h), bytes);
        decode_row(codec, bytes, std::span(decoded).subspan(at * h, h));
        const bool missing = i % 6 == 4;
        row[at] = missing ? EncodedRow{} : EncodedRow{bytes, codec};
        index[at] = missing ? -1 : static_cast<int32_t>(i);
      }
      const View2<const float> weight_tk(weight.data(), kTokens, kTopK);
      std::vector<float> expected = random_floats(kTokens * hidden, 3);
      const std::vector<float> before = expected;
      combine_ref({decoded.data(), num_rows, hidden}, {index.data(), kTokens, kTopK}, weight_tk,
                  {expected.data(), kTokens, hidden});
      for (int threads : {1, 3}) {
        Team team({.num_threads = threads});
        std::vector<float> y = before;
        combine_encoded_cpu(team, {row.data(), kTokens, kTopK}, weight_tk, {y.data(), kTokens, hidden});
        for (size_t i = 0; i < y.size(); ++i) ASSERT_TRUE(same_bits(y[i], expected[i])) << hidden << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace guildhall
