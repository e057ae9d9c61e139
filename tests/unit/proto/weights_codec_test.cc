// weights_codec_test.cc: requests and chunks read back equal; every lie they can tell is refused by name.
#include "proto/weights_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "proto/crc32c.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

class Frame {
 public:
  explicit Frame(size_t bytes) : words_((bytes + 7) / 8, ~uint64_t{0}), bytes_(bytes) {}
  std::span<std::byte> span() { return {reinterpret_cast<std::byte*>(words_.data()), bytes_}; }
  void resize(size_t bytes) { words_.resize((bytes + 7) / 8), bytes_ = bytes; }
  template <class T>
  void change(size_t offset, const std::function<void(T&)>& change) {
    T value;
    std::memcpy(&value, span().data() + offset, sizeof value);
    change(value);
    std::memcpy(span().data() + offset, &value, sizeof value);
  }

 private:
  std::vector<uint64_t> words_;
  size_t bytes_;
};

Frame make_request() {
  Frame frame(kWeightsRequestBytes);
  const WeightsRequest request{.layer = 2, .expert = 7, .max_bytes = 4096, .offset = 8192};
  EXPECT_EQ(write_weights_request(5, 3, request, frame.span()), kWeightsRequestBytes);
  return frame;
}

Frame make_weights(std::span<const std::byte> bytes) {
  Frame frame(weights_frame_bytes(bytes.size()));
  const WeightsChunk chunk{.layer = 2,
                           .expert = 7,
                           .type = WeightType::bf16,
                           .offset = 8192,
                           .total_bytes = 10000,
                           .crc32c = 77,
                           .bytes = bytes};
  EXPECT_EQ(write_weights(5, 3, chunk, frame.span()), frame.span().size());
  return frame;
}

std::vector<std::byte> some_bytes(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

TEST(WeightsCodec, ARequestReadsBack) {
  Frame frame = make_request();
  const auto view = decode_weights_request(frame.span());
  ASSERT_FALSE(view.has_error()) << view.error().message;
  EXPECT_EQ(view->header.generation, 5u);
  EXPECT_EQ(view->header.step_id, 3u);
  EXPECT_EQ(view->request.layer, 2u);
  EXPECT_EQ(view->request.expert, 7u);
  EXPECT_EQ(view->request.max_bytes, 4096u);
  EXPECT_EQ(view->request.offset, 8192u);
  EXPECT_TRUE(decode_weights(frame.span()).has_error());
}

TEST(WeightsCodec, AChunkOfAnySizeReadsBackAndIsPaddedWithZeros) {
  for (const size_t size : {1, 7, 8, 9, 1808}) {
    const auto bytes = some_bytes(size);
    Frame frame = make_weights(bytes);
    const auto view = decode_weights(frame.span());
    ASSERT_FALSE(view.has_error()) << view.error().message;
    EXPECT_EQ(view->header.step_id, 3u);
    EXPECT_EQ(view->chunk.layer, 2u);
    EXPECT_EQ(view->chunk.expert, 7u);
    EXPECT_EQ(view->chunk.type, WeightType::bf16);
    EXPECT_EQ(view->chunk.offset, 8192u);
    EXPECT_EQ(view->chunk.total_bytes, 10000u);
    EXPECT_EQ(view->chunk.crc32c, 77u);
    EXPECT_TRUE(std::ranges::equal(view->chunk.bytes, bytes));
    for (const std::byte b : frame.span().subspan(sizeof(FrameHeader) + sizeof(WeightsBody) + size))
      EXPECT_EQ(b, std::byte{0});
  }
}

template <class T>
struct Lie {
  const char* what;  // of the refusal
  size_t offset;
  std::function<void(T&)> change;
};

TEST(WeightsCodec, AHeaderThatLiesIsRefused) {
  const std::vector<Lie<FrameHeader>> lies{
      {"neither rows nor pairs", 0, [](FrameHeader& h) { h.num_rows = 1; }},
      {"neither rows nor pairs", 0, [](FrameHeader& h) { h.hidden = 1; }},
      {"of weights are not 0", 0, [](FrameHeader& h) { h.codec = 1; }},
      {"of weights are not 0", 0, [](FrameHeader& h) { h.micro_batch = 1; }},
      {"layer 1024 is not below", 0, [](FrameHeader& h) { h.layer = kMaxLayers; }},
      {"payload_bytes", 0, [](FrameHeader& h) { h.payload_bytes = 8; }},
      {"payload_bytes", 0, [](FrameHeader& h) { h.payload_bytes = ~uint64_t{0}; }},
      {"payload_bytes", 0, [](FrameHeader& h) { h.payload_bytes += 8; }},
      {"payload_crc32c", 0, [](FrameHeader& h) { h.payload_crc32c = 1; }},
  };
  const auto bytes = some_bytes(100);
  for (const auto& lie : lies) {
    Frame request = make_request(), weights = make_weights(bytes);
    request.change(lie.offset, lie.change);
    weights.change(lie.offset, lie.change);
    ASSERT_TRUE(decode_weights_request(request.span()).has_error()) << lie.what;
    EXPECT_THAT(decode_weights_request(request.span()).error().message, HasSubstr(lie.what));
    ASSERT_TRUE(decode_weights(weights.span()).has_error()) << lie.what;
    EXPECT_THAT(decode_weights(weights.span()).error().message, HasSubstr(lie.what));
  }
}

TEST(WeightsCodec, ABodyThatLiesIsRefused) {
  const size_t at = sizeof(FrameHeader);
  const std::vector<Lie<WeightsRequestBody>> of_request{
      {"expert 4096", at, [](WeightsRequestBody& b) { b.expert = kMaxExperts; }},
      {"reserved", at, [](WeightsRequestBody& b) { b.reserved = 1; }},
      {"max_bytes 0", at, [](WeightsRequestBody& b) { b.max_bytes = 0; }},
      {"max_bytes 1048577", at, [](WeightsRequestBody& b) { b.max_bytes = kMaxWeightsChunk + 1; }},
      {"offset", at, [](WeightsRequestBody& b) { b.offset = kMaxExpertBytes; }},
  };
  for (const auto& lie : of_request) {
    Frame frame = make_request();
    frame.change(lie.offset, lie.change);
    ASSERT_TRUE(decode_weights_request(frame.span()).has_error()) << lie.what;
    EXPECT_THAT(decode_weights_request(frame.span()).error().message, HasSubstr(lie.what));
  }
  const std::vector<Lie<WeightsBody>> of_weights{
      {"expert 4096", at, [](WeightsBody& b) { b.expert = kMaxExperts; }},
      {"type 3", at, [](WeightsBody& b) { b.type = 3; }},
      {"chunk_bytes 0", at, [](WeightsBody& b) { b.chunk_bytes = 0; }},
      {"chunk_bytes 1048577", at, [](WeightsBody& b) { b.chunk_bytes = kMaxWeightsChunk + 1; }},
      {"does not match its payload_bytes", at, [](WeightsBody& b) { b.chunk_bytes += 8; }},
      {"are not within", at, [](WeightsBody& b) { b.offset = ~uint64_t{0}; }},
      {"are not within", at, [](WeightsBody& b) { b.total_bytes = 8200; }},
      {"total_bytes", at, [](WeightsBody& b) { b.total_bytes = kMaxExpertBytes + 1; }},
      {"reserved", at, [](WeightsBody& b) { b.reserved = 1; }},
  };
  const auto bytes = some_bytes(100);
  for (const auto& lie : of_weights) {
    Frame frame = make_weights(bytes);
    frame.change(lie.offset, lie.change);
    ASSERT_TRUE(decode_weights(frame.span()).has_error()) << lie.what;
    EXPECT_THAT(decode_weights(frame.span()).error().message, HasSubstr(lie.what));
  }
}

TEST(WeightsCodec, ASealedFrameIsCheckedAndACutOneRefused) {
  const auto bytes = some_bytes(100);
  Frame frame = make_weights(bytes);
  seal_frame(frame.span());
  EXPECT_FALSE(decode_weights(frame.span()).has_error());
  frame.span().back() ^= std::byte{1};
  EXPECT_THAT(decode_weights(frame.span()).error().message, HasSubstr("payload_crc32c"));
  frame.resize(frame.span().size() - 8);
  EXPECT_TRUE(decode_weights(frame.span()).has_error());
}

}  // namespace
}  // namespace guildhall
