// hint_codec_test.cc: a hint reads back equal; every lie it can tell is refused by name.
#include "proto/hint_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

#include "proto/weights_codec.h"

namespace guildhall {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class HintFrame {
 public:
  explicit HintFrame(const std::vector<uint16_t>& experts)
      : words_(hint_frame_bytes(experts.size()) / 8, ~uint64_t{0}) {
    EXPECT_EQ(write_hint(5, 3, 2, experts, span()), span().size());
  }
  std::span<std::byte> span() { return std::as_writable_bytes(std::span(words_)); }
  FrameHeader& header() { return *reinterpret_cast<FrameHeader*>(words_.data()); }
  HintBody& body() { return *reinterpret_cast<HintBody*>(words_.data() + sizeof(FrameHeader) / 8); }
  uint16_t* experts() { return reinterpret_cast<uint16_t*>(&body() + 1); }

 private:
  std::vector<uint64_t> words_;
};

TEST(HintCodec, AHintReadsBackInOrder) {
  for (const std::vector<uint16_t>& experts : {std::vector<uint16_t>{7}, {9, 0, 4095, 3}, {1, 2, 3, 4, 5}}) {
    HintFrame frame(experts);
    const auto hint = decode_hint(frame.span());
    ASSERT_FALSE(hint.has_error()) << hint.error().message;
    EXPECT_EQ(hint->header.generation, 5u);
    EXPECT_EQ(hint->header.step_id, 3u);
    EXPECT_EQ(hint->header.layer, 2u);
    EXPECT_THAT(hint->experts, ElementsAreArray(experts));
  }
}

TEST(HintCodec, AHintOfAllExpertsThereCanBeFits) {
  std::vector<uint16_t> experts(kMaxExperts);
  for (size_t e = 0; e < experts.size(); ++e) experts[e] = static_cast<uint16_t>(e);
  HintFrame frame(experts);
  const auto hint = decode_hint(frame.span());
  ASSERT_FALSE(hint.has_error()) << hint.error().message;
  EXPECT_EQ(hint->experts.size(), experts.size());
}

TEST(HintCodec, AChecksumIsVerified) {
  HintFrame frame({4, 5});
  seal_frame(frame.span());
  EXPECT_FALSE(decode_hint(frame.span()).has_error());
  frame.experts()[1] = 6;
  EXPECT_THAT(decode_hint(frame.span()).error().message, HasSubstr("payload_crc32c"));
}

TEST(HintCodec, LiesAreRefusedByName) {
  struct Lie {
    const char* word;
    std::function<void(HintFrame&)> tell;
  };
  const Lie lies[] = {
      {"neither rows", [](HintFrame& f) { f.header().num_rows = 1; }},
      {"codec", [](HintFrame& f) { f.header().codec = 1; }},
      {"micro_batch", [](HintFrame& f) { f.header().micro_batch = 1; }},
      {"payload_bytes", [](HintFrame& f) { f.header().payload_bytes += 8; }},
      {"payload_bytes", [](HintFrame& f) { f.header().payload_bytes = 0; }},
      {"reserved", [](HintFrame& f) { f.body().reserved = 1; }},
      {"num_experts 0", [](HintFrame& f) { f.body().num_experts = 0; }},
      {"num_experts 9", [](HintFrame& f) { f.body().num_experts = 9; }},
      {"num_experts 4294967295", [](HintFrame& f) { f.body().num_experts = UINT32_MAX; }},
      {"expert 4096", [](HintFrame& f) { f.experts()[2] = kMaxExperts; }},
  };
  for (const Lie& lie : lies) {
    HintFrame frame({4, 5, 6});
    lie.tell(frame);
    const auto hint = decode_hint(frame.span());
    ASSERT_TRUE(hint.has_error()) << lie.word;
    EXPECT_THAT(hint.error().message, HasSubstr(lie.word));
  }
}

TEST(HintCodec, OtherFramesAreNoHints) {
  std::vector<uint64_t> words(kWeightsRequestBytes / 8);
  const std::span<std::byte> frame = std::as_writable_bytes(std::span(words));
  write_weights_request(5, 3, {.layer = 2, .expert = 7, .max_bytes = 4096}, frame);
  EXPECT_THAT(decode_hint(frame).error().message, HasSubstr("kind 4 where 6 was due"));
  HintFrame hint({1});
  EXPECT_TRUE(decode_dispatch(hint.span()).has_error());
  EXPECT_TRUE(decode_weights(hint.span()).has_error());
}

}  // namespace
}  // namespace guildhall
