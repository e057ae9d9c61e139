// dispatch_frames.h: a tiny checkpoint's experts, dispatch frames for them, and what must come back.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "experts/expert_runner.h"
#include "kernels/expert_ffn.h"
#include "kernels/row_codec.h"
#include "proto/codec.h"
#include "tests/support/golden_case.h"

namespace guildhall {

// hidden 44, 9 experts, top 4; layers 0 and 2 have experts, layer 1 is dense.
inline const std::filesystem::path& tiny_checkpoint() {
  static const std::filesystem::path path = read_golden_case(std::string("qwen3_moe_f32")).path;
  return path;
}
inline const ModelSpec& tiny_model() {
  static const ModelSpec spec = read_model_spec(tiny_checkpoint()).value();
  return spec;
}
inline std::vector<std::vector<int32_t>> experts_of_both_layers(const std::vector<int32_t>& experts) {
  return {experts, {}, experts};
}
inline std::shared_ptr<const ExpertStore> load_experts(const std::vector<int32_t>& experts) {
  LoadProgress progress;
  return ExpertStore::load(tiny_checkpoint(), tiny_model(), LoadMode::checkpoint,
                           experts_of_both_layers(experts), progress)
      .value();
}
inline std::shared_ptr<const ExpertStore> all_experts() {
  static const auto store = load_experts({0, 1, 2, 3, 4, 5, 6, 7, 8});
  return store;
}

// Frames of random rows; experts_of_row[i] are row i's choices in gate order, of weight 0.5, 0.25 and so on.
class DispatchFrame {
 public:
  DispatchFrame(const FrameFields& fields, const std::vector<std::vector<uint16_t>>& experts_of_row,
                Codec codec = Codec::f32, int64_t hidden = tiny_model().hidden, uint32_t seed = 1) {
    size_t num_pairs = 0;
    for (const auto& experts : experts_of_row) num_pairs += experts.size();
    const FrameShape shape{.num_rows = static_cast<uint32_t>(experts_of_row.size()),
                           .num_pairs = static_cast<uint32_t>(num_pairs),
                           .hidden = static_cast<uint32_t>(hidden),
                           .codec = codec};
    words_.resize((frame_layout(shape).total_bytes + 7) / 8);
    const FrameSections out =
        begin_dispatch(fields, shape, {reinterpret_cast<std::byte*>(words_.data()), words_.size() * 8});
    size_t p = 0;
    for (size_t row = 0; row < experts_of_row.size(); ++row)
      for (size_t k = 0; k < experts_of_row[row].size(); ++k)
        out.pairs[p++] = {static_cast<uint32_t>(row), experts_of_row[row][k], static_cast<uint16_t>(k),
                          std::ldexp(0.5f, -static_cast<int>(k))};
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(hidden));
    for (size_t row = 0; row < experts_of_row.size(); ++row) {
      for (float& v : x) v = normal(random);
      encode_row(codec, x, out.row(row));
    }
    bytes_ = out.total_bytes;
  }

  std::span<std::byte> bytes() { return {reinterpret_cast<std::byte*>(words_.data()), bytes_}; }
  std::span<const std::byte> bytes() const {
    return {reinterpret_cast<const std::byte*>(words_.data()), bytes_};
  }
  DispatchView view() const { return decode_dispatch(bytes()).value(); }

 private:
  std::vector<uint64_t> words_;
  size_t bytes_ = 0;
};

// By expert_ffn_ref: a row per pair or, of a reduced combine, each row's weighted sum.
inline std::vector<std::vector<float>> expected_rows(const DispatchView& d, const ExpertStore& store) {
  const int64_t hidden = d.header.hidden;
  const bool reduced = combine_of(d.header) == Combine::reduced;
  std::vector<float> x(static_cast<size_t>(hidden)), y(x.size()),
      scratch(static_cast<size_t>(tiny_model().moe.expert_width));
  std::vector<std::vector<float>> rows;
  if (reduced) rows.assign(d.header.num_rows, std::vector<float>(x.size()));
  for (const DispatchPair& pair : d.pairs) {
    decode_row(codec_of(d.header), d.row(pair.row), x);
    const std::vector<int32_t> offset_e{0, 1};
    expert_ffn_ref({x.data(), 1, hidden}, offset_e, {store.find(d.header.layer, pair.expert), 1},
                   {scratch.data(), 1, static_cast<int64_t>(scratch.size())}, {y.data(), 1, hidden});
    if (!reduced)
      rows.push_back(y);
    else
      for (size_t i = 0; i < y.size(); ++i) rows[pair.row][i] += pair.weight * y[i];
  }
  return rows;
}

// Rows agree with the reference: fp32 sums of at most 44 terms in any order; bf16 rounds once more, to 8
// bits, fp8 to 4 bits or to half a step of its smallest numbers.
inline void expect_rows(std::span<const std::byte> got, Codec codec,
                        const std::vector<std::vector<float>>& expected) {
  const auto hidden = static_cast<size_t>(tiny_model().hidden);
  const size_t bytes = row_bytes(codec, hidden);
  ASSERT_EQ(got.size(), expected.size() * bytes);
  std::vector<float> row(hidden);
  for (size_t r = 0; r < expected.size(); ++r) {
    decode_row(codec, got.data() + r * bytes, row);
    float amax = 0;
    for (const float v : expected[r]) amax = std::max(amax, std::abs(v));
    for (size_t i = 0; i < hidden; ++i) {
      const float relative = codec == Codec::f32 ? 1e-5f : codec == Codec::bf16 ? 1.0f / 128 : 1.0f / 15;
      const float tolerance =
          1e-5f + std::abs(expected[r][i]) * relative + (codec == Codec::fp8 ? amax / 448 / 512 : 0);
      ASSERT_NEAR(row[i], expected[r][i], tolerance) << "row " << r << " element " << i;
    }
  }
}

}  // namespace guildhall
