// kv_codes_test.cc: rows of the KV cache in 8 bits: the reference against the definition, every instruction
// set against the reference; and where pages keep them.
#include "kernels/kv_codes.h"

#include <limits>

#include "kernel_fixture.h"

namespace guildhall {
namespace {

constexpr DType kCodes[] = {DType::e4m3, DType::int8};

struct Encoded {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};
using To = void (*)(DType, std::span<const float>, std::span<uint8_t>, std::span<float>);

Encoded encode(To to, DType dtype, const std::vector<float>& x) {
  Encoded out{std::vector<uint8_t>(x.size()), std::vector<float>((x.size() + kKvGroup - 1) / kKvGroup)};
  to(dtype, x, out.codes, out.scales);
  return out;
}
std::vector<float> decode(DType dtype, const Encoded& in) {
  std::vector<float> x(in.codes.size());
  from_kv_codes_ref(dtype, in.codes, in.scales, x);
  return x;
}

TEST(KvCodes, Int8RoundsToTheNearestAndTiesToEven) {
  const Encoded e = encode(to_kv_codes_ref, DType::int8, {127, -127, 0.5f, 1.5f, -2.5f, 3.49f, 0, -0.4f});
  EXPECT_EQ(e.scales, std::vector<float>{1});
  EXPECT_EQ(e.codes, (std::vector<uint8_t>{127, 129, 0, 2, 254, 3, 0, 0}));
}

// e4m3 keeps 4 significant bits, and 9 bits below 1 of the largest, 448, as denormals; int8 keeps steps.
TEST(KvCodes, AnElementErrsByHalfAStep) {
  for (const DType dtype : kCodes) {
    const std::vector<float> x = random_floats(1000, 7, 30);
    const Encoded e = encode(to_kv_codes_ref, dtype, x);
    const std::vector<float> back = decode(dtype, e);
    for (size_t i = 0; i < x.size(); ++i) {
      const float scale = e.scales[i / kKvGroup];
      const float step = dtype == DType::int8 ? scale : std::max(std::abs(x[i]) / 8, scale * 0x1p-9f);
      ASSERT_LE(std::abs(back[i] - x[i]), step / 2 * 1.0001f) << to_string(dtype) << " " << i;
    }
  }
}

TEST(KvCodes, WhatIsNotFiniteMakesItsGroupNanAndNoOther) {
  for (const DType dtype : kCodes)
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
      std::vector<float> x = random_floats(300, 3);
      const std::vector<float> good = decode(dtype, encode(to_kv_codes_ref, dtype, x));
      x[130] = bad;
      const std::vector<float> back = decode(dtype, encode(to_kv_codes_ref, dtype, x));
      for (size_t i = 0; i < x.size(); ++i) {
        if (i / kKvGroup == 1)
          EXPECT_TRUE(std::isnan(back[i])) << i;
        else
          EXPECT_EQ(back[i], good[i]) << i;
      }
    }
}

using KvCodesIsa = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, KvCodesIsa, testing::ValuesIn(available_isas()), isa_name);

TEST_P(KvCodesIsa, EveryInstructionSetGivesTheSameBytes) {
  const float odd[] = {
      std::numeric_limits<float>::infinity(), std::nanf(""), 1e-45f, -1e-38f, 3.4e38f, 0, -0.0f};
  for (const DType dtype : kCodes)
    for (const int64_t n : {1, 3, 16, 33, 127, 128, 129, 512, 520}) {
      std::vector<std::vector<float>> rows = {random_floats(n, 1), random_floats(n, 2, 1e30f),
                                              random_floats(n, 3, 1e-39f), std::vector<float>(n, 0.0f)};
      for (const float bad : odd) {
        rows.push_back(random_floats(n, 4));
        rows.back()[static_cast<size_t>(n / 2)] = bad;
      }
      for (const std::vector<float>& x : rows) {
        const Encoded got = encode(to_kv_codes_cpu, dtype, x), want = encode(to_kv_codes_ref, dtype, x);
        EXPECT_EQ(got.codes, want.codes) << to_string(dtype) << " " << n;
        for (size_t g = 0; g < want.scales.size(); ++g)
          EXPECT_TRUE(same_bits(got.scales[g], want.scales[g])) << to_string(dtype) << " " << n;
      }
    }
}

TEST(KvPageLayout, PlanesFollowEachOtherAtMultiplesOf16) {
  constexpr KvPageLayout gqa = kv_page_layout(DType::e4m3, 16 * 4, 128, 0);
  EXPECT_EQ(gqa.scale_offset, 16 * 4 * 128);
  EXPECT_EQ(gqa.page_bytes, 16 * 4 * (128 + 4));
  constexpr KvPageLayout mla = kv_page_layout(DType::int8, 16, 512, 64);
  EXPECT_EQ(mla.page_bytes, 16 * 656);  // a token of DeepSeek-V3 in one layer, as in vLLM's fp8_ds_mla
  EXPECT_EQ(mla.groups(), 4);
  constexpr KvPageLayout odd = kv_page_layout(DType::int8, 3, 7, 5);
  EXPECT_EQ(odd.tail_offset, 32);
  EXPECT_EQ(odd.scale_offset, 64);
  EXPECT_EQ(odd.page_bytes, 80);
  EXPECT_EQ(kv_page_layout(DType::bf16, 3, 7, 5).page_bytes, 3 * 12 * 2);
}

}  // namespace
}  // namespace guildhall
