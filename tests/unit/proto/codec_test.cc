// Frames written by the codec read back equal; every lie a header or pair can tell is refused by name.
#include "proto/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "proto/crc32c.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

constexpr FrameFields kFields{
    .generation = 7, .step_id = 118, .placement_version = 3, .layer = 5, .micro_batch = 1};
constexpr FrameFields kReduced{.generation = 7, .combine = Combine::reduced};

// 8-byte aligned bytes of a size that need not be a multiple of 8.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : words_((bytes + 7) / 8, ~uint64_t{0}), bytes_(bytes) {}
  std::span<std::byte> span() { return {reinterpret_cast<std::byte*>(words_.data()), bytes_}; }
  std::span<const std::byte> view() const {
    return {reinterpret_cast<const std::byte*>(words_.data()), bytes_};
  }
  void resize(size_t bytes) { words_.resize((bytes + 7) / 8), bytes_ = bytes; }

 private:
  std::vector<uint64_t> words_;
  size_t bytes_;
};

// Three rows of five bf16, with 1, 3 and 1 experts.
Buffer make_dispatch() {
  const FrameShape shape{.num_rows = 3, .num_pairs = 5, .hidden = 5, .codec = Codec::bf16};
  Buffer buffer(frame_layout(shape).total_bytes);
  const FrameSections sections = begin_dispatch(kFields, shape, buffer.span());
  const DispatchPair pairs[] = {
      {0, 9, 0, 0.5f}, {1, 2, 0, 0.4f}, {1, 8, 1, 0.3f}, {1, 1, 3, 0.2f}, {2, 4095, 63, 1}};
  std::copy(std::begin(pairs), std::end(pairs), sections.pairs.begin());
  for (size_t i = 0; i < sections.rows.size(); ++i) sections.rows[i] = static_cast<std::byte>(i);
  return buffer;
}

FrameHeader header_of(const Buffer& buffer) {
  FrameHeader header;
  std::memcpy(&header, buffer.view().data(), sizeof header);
  return header;
}

void set_header(Buffer& buffer, const FrameHeader& header) {
  std::memcpy(buffer.span().data(), &header, sizeof header);
}

TEST(FrameLayout, SectionsArePaddedToEightBytes) {
  const FrameLayout layout = frame_layout({.num_rows = 3, .num_pairs = 5, .hidden = 5, .codec = Codec::bf16});
  EXPECT_EQ(layout.pairs_offset, 64u);
  EXPECT_EQ(layout.rows_offset, 64u + 64);  // 60 bytes of pairs
  EXPECT_EQ(layout.row_bytes, 10u);
  EXPECT_EQ(layout.total_bytes, 128u + 32);  // 30 bytes of rows
  EXPECT_EQ(frame_layout({.num_rows = 2, .num_pairs = 0, .hidden = 3, .codec = Codec::f32}).total_bytes,
            64u + 24);
}

// Codes padded to 4, then a scale per 128; so scales are aligned in every row and sections in every frame.
TEST(FrameLayout, Fp8RowsAreCodesAndScales) {
  EXPECT_EQ(row_bytes(Codec::fp8, 1), 4u + 4);
  EXPECT_EQ(row_bytes(Codec::fp8, 44), 44u + 4);
  EXPECT_EQ(row_bytes(Codec::fp8, 127), 128u + 4);
  EXPECT_EQ(row_bytes(Codec::fp8, 128), 128u + 4);
  EXPECT_EQ(row_bytes(Codec::fp8, 129), 132u + 8);
  EXPECT_EQ(row_bytes(Codec::fp8, 7168), 7168u + 4 * 56);
  EXPECT_EQ(fp8_scales_offset(129), 132u);
  const FrameLayout layout = frame_layout({.num_rows = 3, .hidden = 129, .codec = Codec::fp8});
  EXPECT_EQ(layout.row_bytes, 140u);
  EXPECT_EQ(layout.total_bytes, 64u + 424);  // 420 bytes of rows
}

TEST(Codec, ADispatchSaysWhatItsAnswerIs) {
  Buffer buffer(4096);
  FrameFields fields = kFields;
  fields.combine = Combine::reduced;
  fields.answer_codec = Codec::bf16;
  const FrameShape shape{.num_rows = 3, .num_pairs = 5, .hidden = 5, .codec = Codec::fp8};
  begin_dispatch(fields, shape, buffer.span());
  FrameHeader header = header_of(buffer);
  EXPECT_EQ(codec_of(header), Codec::fp8);
  EXPECT_EQ(answer_shape(header).num_rows, 3u);
  EXPECT_EQ(answer_shape(header).num_pairs, 0u);
  EXPECT_EQ(answer_shape(header).hidden, 5u);
  EXPECT_EQ(answer_shape(header).codec, Codec::bf16);
  const FrameFields answer = answer_fields(header);
  EXPECT_EQ(answer.generation, 7u);
  EXPECT_EQ(answer.step_id, 118u);
  EXPECT_EQ(answer.placement_version, 3u);
  EXPECT_EQ(answer.layer, 5);
  EXPECT_EQ(answer.micro_batch, 1);
  EXPECT_EQ(answer.combine, Combine::reduced);

  begin_combine(answer, answer_shape(header), buffer.span());
  const auto view = decode_combine(buffer.view().first(frame_layout(answer_shape(header)).total_bytes));
  ASSERT_TRUE(view) << to_string(view.error());
  EXPECT_EQ(combine_of(view->header), Combine::reduced);
  EXPECT_EQ(codec_of(view->header), Codec::bf16);

  header.combine = static_cast<uint8_t>(Combine::exact);
  EXPECT_EQ(answer_shape(header).num_rows, 5u);
}

TEST(Codec, DispatchReadsBackAsWritten) {
  const Buffer buffer = make_dispatch();
  const auto view = decode_dispatch(buffer.view());
  ASSERT_TRUE(view) << to_string(view.error());
  EXPECT_EQ(view->header.generation, 7u);
  EXPECT_EQ(view->header.step_id, 118u);
  EXPECT_EQ(view->header.placement_version, 3u);
  EXPECT_EQ(view->header.layer, 5);
  EXPECT_EQ(view->header.micro_batch, 1);
  ASSERT_EQ(view->pairs.size(), 5u);
  EXPECT_EQ(view->pairs[3].expert, 1);
  EXPECT_EQ(view->pairs[3].gate_rank, 3);
  EXPECT_EQ(view->pairs[3].weight, 0.2f);
  EXPECT_EQ(view->rows.size(), 30u);
  EXPECT_EQ(view->row(2)[0], std::byte{20});
}

TEST(Codec, PaddingIsZeroSoThatEqualFramesAreEqualBytes) {
  const Buffer buffer = make_dispatch();
  for (const size_t at : {124u, 127u, 158u, 159u}) EXPECT_EQ(buffer.view()[at], std::byte{0}) << at;
}

TEST(Codec, CombineReadsBackAndMayHoldOneRowPerPairOfTheLargestDispatch) {
  const FrameShape shape{.num_rows = kMaxRows + 1, .hidden = 1, .codec = Codec::f32};
  Buffer buffer(frame_layout(shape).total_bytes);
  const FrameSections sections = begin_combine(kFields, shape, buffer.span());
  EXPECT_TRUE(sections.pairs.empty());
  std::memset(sections.rows.data(), 0, sections.rows.size());
  const float value = 2.5f;
  std::memcpy(sections.row(kMaxRows), &value, sizeof value);
  const auto view = decode_combine(buffer.view());
  ASSERT_TRUE(view) << to_string(view.error());
  float got = 0;
  std::memcpy(&got, view->row(kMaxRows), sizeof got);
  EXPECT_EQ(got, 2.5f);
}

TEST(Codec, EmptyFramesAreFrames) {
  for (const uint32_t hidden : {0u, 2048u}) {
    Buffer buffer(sizeof(FrameHeader));
    begin_dispatch(kFields, {.hidden = hidden}, buffer.span());
    EXPECT_TRUE(decode_dispatch(buffer.view()));
    begin_combine(kFields, {.hidden = hidden}, buffer.span());
    EXPECT_TRUE(decode_combine(buffer.view()));
  }
}

TEST(Codec, FailureCarriesCodeAndMessage) {
  for (const Code code :
       {Code::invalid_argument, Code::not_found, Code::unsupported, Code::data_loss, Code::resource_exhausted,
        Code::unavailable, Code::deadline_exceeded, Code::peer_lost, Code::cancelled, Code::internal}) {
    Buffer buffer(kMaxFailureFrameBytes);
    const size_t bytes =
        write_failure(kFields, {code, "worker=w1: layer 5 expert 9 is not held"}, buffer.span());
    const auto view = decode_failure(buffer.view().first(bytes));
    ASSERT_TRUE(view) << to_string(view.error());
    EXPECT_EQ(view->why.code, code);
    EXPECT_EQ(view->why.message, "worker=w1: layer 5 expert 9 is not held");
    EXPECT_EQ(view->header.step_id, 118u);
  }
}

TEST(Codec, LongFailureMessageIsCutAndUnknownCodeReadsAsInternal) {
  Buffer buffer(kMaxFailureFrameBytes);
  const size_t bytes = write_failure(kFields, {Code::internal, std::string(5000, 'x')}, buffer.span());
  EXPECT_EQ(bytes, kMaxFailureFrameBytes);
  const uint16_t future_code = 999;
  std::memcpy(buffer.span().data() + sizeof(FrameHeader), &future_code, sizeof future_code);
  const auto view = decode_failure(buffer.view());
  ASSERT_TRUE(view);
  EXPECT_EQ(view->why.code, Code::internal);
  EXPECT_EQ(view->why.message.size(), kMaxFailureMessage);
}

TEST(Codec, SealedFrameIsVerified) {
  Buffer buffer = make_dispatch();
  seal_frame(buffer.span());
  EXPECT_NE(header_of(buffer).payload_crc32c, 0u);
  EXPECT_TRUE(decode_dispatch(buffer.view()));
  buffer.span()[buffer.span().size() - 10] ^= std::byte{1};
  const auto view = decode_dispatch(buffer.view());
  ASSERT_FALSE(view);
  EXPECT_THAT(view.error().message, HasSubstr("payload_crc32c"));
}

// The same frame with its rows apart.
struct Parted {
  Buffer head;
  std::vector<std::byte> rows;
};

Parted part(const Buffer& frame, size_t rows_offset) {
  Parted parted{Buffer(rows_offset), {}};
  std::copy_n(frame.view().begin(), rows_offset, parted.head.span().begin());
  parted.rows.assign(frame.view().begin() + static_cast<ptrdiff_t>(rows_offset), frame.view().end());
  return parted;
}

TEST(Codec, AFramesRowsMayLieApart) {
  const Buffer whole = make_dispatch();
  const Parted parted = part(whole, 128);
  const auto dispatch = decode_dispatch({parted.head.view(), parted.rows});
  ASSERT_TRUE(dispatch) << to_string(dispatch.error());
  EXPECT_TRUE(dispatch->rows_on_device);
  EXPECT_EQ(dispatch->rows.data(), parted.rows.data());
  EXPECT_EQ(dispatch->rows.size(), 30u);
  EXPECT_EQ(dispatch->pairs.size(), 5u);
  EXPECT_FALSE(decode_dispatch(whole.view())->rows_on_device);
}

TEST(Codec, WritingRowsApartLeavesTheSameFrame) {
  const FrameShape shape{.num_rows = 3, .hidden = 5, .codec = Codec::bf16};
  std::vector<std::byte> rows(frame_layout(shape).tail_bytes());
  Buffer head(64);
  const FrameSections sections = begin_combine(kFields, shape, head.span(), rows.data());
  EXPECT_EQ(sections.total_bytes, 64u);
  EXPECT_EQ(sections.rows.data(), rows.data());
  for (size_t i = 0; i < sections.rows.size(); ++i) sections.rows[i] = static_cast<std::byte>(i);
  const auto combine = decode_combine({head.view(), rows});
  ASSERT_TRUE(combine) << to_string(combine.error());
  EXPECT_EQ(combine->row(2), rows.data() + 20);
}

TEST(Codec, RowsApartOfAnyOtherLengthOrPlaceAreRefused) {
  Buffer whole = make_dispatch();
  const Parted parted = part(whole, 128);
  for (size_t bytes = 1; bytes < parted.rows.size(); ++bytes)
    EXPECT_FALSE(decode_dispatch({parted.head.view(), std::span(parted.rows).first(bytes)}));
  for (const size_t at : {64u, 120u, 136u}) {
    const Parted elsewhere = part(whole, at);
    EXPECT_THAT(decode_dispatch({elsewhere.head.view(), elsewhere.rows}).error().message,
                HasSubstr("not at its rows"));
  }
  seal_frame(whole.span());
  const Parted sealed = part(whole, 128);
  EXPECT_THAT(decode_dispatch({sealed.head.view(), sealed.rows}).error().message, HasSubstr("checksum"));
}

TEST(Codec, AnotherKindIsRefused) {
  const Buffer buffer = make_dispatch();
  EXPECT_TRUE(decode_header(buffer.view()));
  EXPECT_THAT(decode_combine(buffer.view()).error().message, HasSubstr("kind 1 where 2 was due"));
  EXPECT_FALSE(decode_failure(buffer.view()));
}

TEST(Codec, EveryLieOfADispatchHeaderIsRefusedByName) {
  const struct {
    const char* why;
    std::function<void(FrameHeader&)> lie;
  } cases[] = {
      {"magic", [](FrameHeader& h) { h.magic ^= 1; }},
      {"version 2 is newer", [](FrameHeader& h) { h.version = kExchangeVersion + 1; }},
      {"version is 0", [](FrameHeader& h) { h.version = 0; }},
      {"kind 0", [](FrameHeader& h) { h.kind = 0; }},
      {"kind 7", [](FrameHeader& h) { h.kind = 7; }},
      {"layer 1024", [](FrameHeader& h) { h.layer = kMaxLayers; }},
      {"micro_batch 4", [](FrameHeader& h) { h.micro_batch = kMaxMicroBatches; }},
      {"codec 3 is not known", [](FrameHeader& h) { h.codec = kNumCodecs; }},
      {"combine 2 is not known", [](FrameHeader& h) { h.combine = 2; }},
      {"answer_codec 3 is not known", [](FrameHeader& h) { h.answer_codec = kNumCodecs; }},
      {"reserved", [](FrameHeader& h) { h.reserved = 1; }},
      {"reserved", [](FrameHeader& h) { h.reserved2 = 1; }},
      {"num_rows 65537", [](FrameHeader& h) { h.num_rows = kMaxRows + 1; }},
      {"num_rows 4294967295", [](FrameHeader& h) { h.num_rows = ~0u; }},
      {"num_pairs 193", [](FrameHeader& h) { h.num_pairs = 3 * kMaxTopK + 1; }},
      {"num_pairs 4294967295", [](FrameHeader& h) { h.num_pairs = ~0u; }},
      {"hidden 65537", [](FrameHeader& h) { h.hidden = kMaxHidden + 1; }},
      {"hidden is 0", [](FrameHeader& h) { h.hidden = 0; }},
      {"take 8589934656 bytes",
       [](FrameHeader& h) { h.num_rows = kMaxRows, h.hidden = kMaxHidden, h.num_pairs = 0; }},
      {"payload_bytes is 104", [](FrameHeader& h) { h.payload_bytes += 8; }},
      {"payload_bytes is 0", [](FrameHeader& h) { h.payload_bytes = 0; }},
      {"payload_bytes is 18446744073709551615", [](FrameHeader& h) { h.payload_bytes = ~uint64_t{0}; }},
      {"payload_bytes is 96", [](FrameHeader& h) { h.num_rows = 4; }},
      {"payload_bytes is 96", [](FrameHeader& h) { h.num_pairs = 7; }},
  };
  for (const auto& [why, lie] : cases) {
    Buffer buffer = make_dispatch();
    FrameHeader header = header_of(buffer);
    lie(header);
    set_header(buffer, header);
    const auto view = decode_dispatch(buffer.view());
    ASSERT_FALSE(view) << why;
    EXPECT_THAT(view.error().message, HasSubstr(why));
    EXPECT_EQ(view.error().code, header.version > kExchangeVersion ? Code::unsupported : Code::data_loss);
  }
}

TEST(Codec, EveryLieOfAPairIsRefusedByName) {
  const struct {
    const char* why;
    size_t pair_idx;
    DispatchPair lie;
  } cases[] = {
      {"pair 4: row 3 of 3", 4, {3, 0, 0, 1}},
      {"pair 1: row 4294967295 of 3", 1, {~0u, 0, 0, 1}},
      {"pair 4: row 0 after row 1", 4, {0, 0, 0, 1}},
      {"pair 0: expert 4096", 0, {0, kMaxExperts, 0, 1}},
      {"pair 4: gate_rank 64", 4, {2, 0, kMaxTopK, 1}},
      {"pair 2: gate_rank 0 after 0 in row 1", 2, {1, 0, 0, 1}},
  };
  for (const auto& [why, pair_idx, lie] : cases) {
    Buffer buffer = make_dispatch();
    std::memcpy(buffer.span().data() + sizeof(FrameHeader) + pair_idx * sizeof lie, &lie, sizeof lie);
    const auto view = decode_dispatch(buffer.view());
    ASSERT_FALSE(view) << why;
    EXPECT_THAT(view.error().message, HasSubstr(why));
  }
}

TEST(Codec, EveryTruncationAndEveryExcessIsRefused) {
  const Buffer buffer = make_dispatch();
  for (size_t bytes = 0; bytes < buffer.view().size(); ++bytes)
    EXPECT_FALSE(decode_dispatch(buffer.view().first(bytes)));
  Buffer longer = make_dispatch();
  longer.resize(longer.view().size() + 8);
  EXPECT_FALSE(decode_dispatch(longer.view()));
  EXPECT_FALSE(decode_header(std::span<const std::byte>{}));
}

TEST(Codec, MisalignedFrameIsRefusedNotRead) {
  const Buffer buffer = make_dispatch();
  Buffer shifted(buffer.view().size() + 8);
  std::copy(buffer.view().begin(), buffer.view().end(), shifted.span().begin() + 4);
  const auto view = decode_dispatch(shifted.view().subspan(4, buffer.view().size()));
  ASSERT_FALSE(view);
  EXPECT_THAT(view.error().message, HasSubstr("multiple of 8"));
}

TEST(Codec, CombineWithPairsOrTooManyRowsIsRefused) {
  Buffer buffer(sizeof(FrameHeader));
  begin_combine(kFields, {.hidden = 4}, buffer.span());
  FrameHeader header = header_of(buffer);
  header.num_pairs = 1;
  set_header(buffer, header);
  EXPECT_THAT(decode_combine(buffer.view()).error().message, HasSubstr("num_pairs 1 exceeds 0"));
  header.num_pairs = 0;
  header.num_rows = kMaxPairs + 1;
  set_header(buffer, header);
  EXPECT_THAT(decode_combine(buffer.view()).error().message, HasSubstr("num_rows 4194305 exceeds"));
  begin_combine(kReduced, {.hidden = 4}, buffer.span());
  header = header_of(buffer);
  header.num_rows = kMaxRows + 1;
  set_header(buffer, header);
  EXPECT_THAT(decode_combine(buffer.view()).error().message, HasSubstr("num_rows 65537 exceeds 65536"));
  header.num_rows = 0;
  header.answer_codec = 1;
  set_header(buffer, header);
  EXPECT_THAT(decode_combine(buffer.view()).error().message, HasSubstr("answer_codec 1 is not 0"));
}

TEST(Codec, LyingFailureIsRefused) {
  Buffer whole(kMaxFailureFrameBytes);
  const size_t bytes = write_failure(kFields, {Code::internal, "abc"}, whole.span());
  const auto with = [&](size_t offset, auto value) {
    Buffer buffer(bytes);
    std::memcpy(buffer.span().data(), whole.view().data(), bytes);
    std::memcpy(buffer.span().data() + offset, &value, sizeof value);
    return decode_failure(buffer.view()).has_error();
  };
  EXPECT_FALSE(with(offsetof(FrameHeader, generation), uint64_t{8}));
  EXPECT_TRUE(with(offsetof(FrameHeader, num_rows), uint32_t{1}));
  EXPECT_TRUE(with(offsetof(FrameHeader, hidden), uint32_t{1}));
  for (const size_t at : {offsetof(FrameHeader, codec), offsetof(FrameHeader, combine),
                          offsetof(FrameHeader, answer_codec), offsetof(FrameHeader, reserved)})
    EXPECT_TRUE(with(at, uint8_t{1}));
  EXPECT_TRUE(with(offsetof(FrameHeader, payload_bytes), uint64_t{4}));
  EXPECT_TRUE(with(offsetof(FrameHeader, payload_bytes), uint64_t{4096}));
  EXPECT_TRUE(with(sizeof(FrameHeader) + offsetof(FailureBody, message_bytes), uint16_t{9}));
  EXPECT_TRUE(with(sizeof(FrameHeader) + offsetof(FailureBody, message_bytes), uint16_t{0xffff}));
  EXPECT_TRUE(with(sizeof(FrameHeader) + offsetof(FailureBody, reserved), uint32_t{1}));
}

}  // namespace
}  // namespace guildhall
