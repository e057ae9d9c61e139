#include "proto/codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "base/check.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

static_assert(std::endian::native == std::endian::little,
              "frames are packed structs: little-endian machines only");

constexpr size_t padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }
constexpr size_t kFailurePrefix = sizeof(FrameHeader) + sizeof(FailureBody);

Status refuse(std::string why) { return Status{Code::data_loss, "frame refused: " + std::move(why)}; }

WireCode to_wire(Code code) {
  switch (code) {
    case Code::invalid_argument:
      return WireCode::invalid_argument;
    case Code::not_found:
      return WireCode::not_found;
    case Code::unsupported:
      return WireCode::unsupported;
    case Code::data_loss:
      return WireCode::data_loss;
    case Code::resource_exhausted:
      return WireCode::resource_exhausted;
    case Code::unavailable:
      return WireCode::unavailable;
    case Code::deadline_exceeded:
      return WireCode::deadline_exceeded;
    case Code::peer_lost:
      return WireCode::peer_lost;
    case Code::cancelled:
      return WireCode::cancelled;
    case Code::internal:
      return WireCode::internal;
  }
  return WireCode::internal;
}

Code from_wire(uint16_t code) {
  switch (static_cast<WireCode>(code)) {
    case WireCode::invalid_argument:
      return Code::invalid_argument;
    case WireCode::not_found:
      return Code::not_found;
    case WireCode::unsupported:
      return Code::unsupported;
    case WireCode::data_loss:
      return Code::data_loss;
    case WireCode::resource_exhausted:
      return Code::resource_exhausted;
    case WireCode::unavailable:
      return Code::unavailable;
    case WireCode::deadline_exceeded:
      return Code::deadline_exceeded;
    case WireCode::peer_lost:
      return Code::peer_lost;
    case WireCode::cancelled:
      return Code::cancelled;
    case WireCode::internal:
      return Code::internal;
  }
  return Code::internal;
}

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 8 == 0; }

FrameShape shape_of(const FrameHeader& header) {
  return {header.num_rows, header.num_pairs, header.hidden, codec_of(header)};
}

// The counts of a dispatch or combine against their bounds; after this the layout cannot overflow.
Result<void> check_counts(const FrameHeader& header) {
  const bool is_dispatch = header.kind == static_cast<uint16_t>(FrameKind::dispatch);
  if (header.codec >= kNumCodecs) return refuse(fmt::format("codec {} is not known", header.codec));
  if (header.combine > static_cast<uint8_t>(Combine::reduced))
    return refuse(fmt::format("combine {} is not known", header.combine));
  if (header.answer_codec >= (is_dispatch ? kNumCodecs : 1))
    return refuse(fmt::format("answer_codec {} is {}", header.answer_codec,
                              is_dispatch ? "not known" : "not 0 in a combine"));
  const bool row_per_pair = !is_dispatch && combine_of(header) == Combine::exact;
  const uint32_t max_rows = row_per_pair ? kMaxPairs : kMaxRows;
  if (header.num_rows > max_rows)
    return refuse(fmt::format("num_rows {} exceeds {}", header.num_rows, max_rows));
  if (header.hidden > kMaxHidden)
    return refuse(fmt::format("hidden {} exceeds {}", header.hidden, kMaxHidden));
  if (header.hidden == 0 && header.num_rows > 0)
    return refuse(fmt::format("hidden is 0 with {} rows", header.num_rows));
  const uint64_t max_pairs = is_dispatch ? uint64_t{header.num_rows} * kMaxTopK : 0;
  if (header.num_pairs > max_pairs)
    return refuse(
        fmt::format("num_pairs {} exceeds {} for {} rows", header.num_pairs, max_pairs, header.num_rows));
  const FrameLayout layout = frame_layout(shape_of(header));
  if (layout.total_bytes > kMaxFrameBytes)
    return refuse(fmt::format("{} rows of {} take {} bytes, more than {}", header.num_rows, header.hidden,
                              layout.total_bytes, kMaxFrameBytes));
  if (header.payload_bytes != layout.total_bytes - sizeof(FrameHeader))
    return refuse(fmt::format("payload_bytes is {} where {} rows and {} pairs of hidden {} take {}",
                              header.payload_bytes, header.num_rows, header.num_pairs, header.hidden,
                              layout.total_bytes - sizeof(FrameHeader)));
  return {};
}

Result<void> check_failure_counts(const FrameHeader& header) {
  if (header.num_rows != 0 || header.num_pairs != 0 || header.hidden != 0)
    return refuse("a failure has neither rows nor pairs");
  if (header.codec != 0 || header.combine != 0 || header.answer_codec != 0)
    return refuse("codec, combine and answer_codec of a failure are not 0");
  if (header.payload_bytes < sizeof(FailureBody) ||
      header.payload_bytes > sizeof(FailureBody) + kMaxFailureMessage)
    return refuse(fmt::format("payload_bytes {} of a failure is not in [{}, {}]", header.payload_bytes,
                              sizeof(FailureBody), sizeof(FailureBody) + kMaxFailureMessage));
  return {};
}

// Of weights, a request for them, or a hint: what follows the header, `body_bytes` and at most
// `max_rest_bytes` more.
Result<void> check_no_rows(const FrameHeader& header, std::string_view what, uint64_t body_bytes,
                           uint64_t max_rest_bytes) {
  if (header.num_rows != 0 || header.num_pairs != 0 || header.hidden != 0)
    return refuse(fmt::format("{} have neither rows nor pairs", what));
  if (header.codec != 0 || header.combine != 0 || header.answer_codec != 0 || header.micro_batch != 0)
    return refuse(fmt::format("codec, combine, answer_codec and micro_batch of {} are not 0", what));
  if (header.payload_bytes < body_bytes || header.payload_bytes > body_bytes + max_rest_bytes)
    return refuse(fmt::format("payload_bytes {} of {} is not in [{}, {}]", header.payload_bytes, what,
                              body_bytes, body_bytes + max_rest_bytes));
  return {};
}

Result<void> check_fields(const FrameHeader& header) {
  if (header.magic != kExchangeMagic)
    return refuse(fmt::format("magic {:#010x} is not {:#010x}", header.magic, kExchangeMagic));
  if (header.version > kExchangeVersion)
    return Status{Code::unsupported,
                  fmt::format("frame refused: version {} is newer than ours, {}; run one release "
                              "on all hosts",
                              header.version, kExchangeVersion)};
  if (header.version == 0) return refuse("version is 0");
  if (header.reserved != 0 || header.reserved2 != 0) return refuse("reserved fields are not 0");
  if (header.layer >= kMaxLayers)
    return refuse(fmt::format("layer {} is not below {}", header.layer, kMaxLayers));
  if (header.micro_batch >= kMaxMicroBatches)
    return refuse(fmt::format("micro_batch {} is not below {}", header.micro_batch, kMaxMicroBatches));
  return {};
}

Result<void> check_pairs(const FrameHeader& header, std::span<const DispatchPair> pairs) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    const DispatchPair& pair = pairs[i];
    if (pair.row >= header.num_rows)
      return refuse(fmt::format("pair {}: row {} of {}", i, pair.row, header.num_rows));
    if (pair.expert >= kMaxExperts)
      return refuse(fmt::format("pair {}: expert {} is not below {}", i, pair.expert, kMaxExperts));
    if (pair.gate_rank >= kMaxTopK)
      return refuse(fmt::format("pair {}: gate_rank {} is not below {}", i, pair.gate_rank, kMaxTopK));
    if (i == 0) continue;
    const DispatchPair& before = pairs[i - 1];
    if (pair.row < before.row)
      return refuse(fmt::format("pair {}: row {} after row {}", i, pair.row, before.row));
    if (pair.row == before.row && pair.gate_rank <= before.gate_rank)
      return refuse(fmt::format("pair {}: gate_rank {} after {} in row {}", i, pair.gate_rank,
                                before.gate_rank, pair.row));
  }
  return {};
}

// The header of a frame of this kind, checksum verified.
Result<FrameHeader> decode_kind(const FrameBytes& frame, FrameKind kind) {
  GH_ASSIGN(const FrameHeader header, decode_header(frame));
  if (header.kind != static_cast<uint16_t>(kind))
    return refuse(fmt::format("kind {} where {} was due", header.kind, static_cast<uint16_t>(kind)));
  const size_t rows_at = frame_layout(shape_of(header)).rows_offset;
  if (!frame.tail.empty() && (kind == FrameKind::failure || frame.bytes.size() != rows_at))
    return refuse(fmt::format("its tail begins after {} bytes, not at its rows", frame.bytes.size()));
  if (header.payload_crc32c != 0) {
    if (!frame.tail.empty()) return refuse("it has a checksum, but rows in a device's memory");
    const uint32_t actual = crc32c(frame.bytes.subspan(sizeof(FrameHeader)));
    if (actual != header.payload_crc32c)
      return refuse(fmt::format("payload_crc32c is {:#010x}, the payload's is {:#010x}",
                                header.payload_crc32c, actual));
  }
  return header;
}

std::span<const std::byte> rows_of(const FrameBytes& frame, const FrameHeader& header,
                                   const FrameLayout& layout) {
  const auto from_rows = frame.tail.empty() ? frame.bytes.subspan(layout.rows_offset) : frame.tail;
  return from_rows.first(header.num_rows * layout.row_bytes);
}

FrameSections begin_frame(FrameKind kind, const FrameFields& fields, const FrameShape& shape,
                          std::span<std::byte> out, std::byte* tail) {
  const FrameLayout layout = frame_layout(shape);
  const size_t end = tail ? layout.rows_offset : layout.total_bytes;
  GH_CHECK(aligned(out.data()) && out.size() >= end);
  const FrameHeader header{.magic = kExchangeMagic,
                           .version = kExchangeVersion,
                           .kind = static_cast<uint16_t>(kind),
                           .generation = fields.generation,
                           .step_id = fields.step_id,
                           .placement_version = fields.placement_version,
                           .layer = fields.layer,
                           .micro_batch = fields.micro_batch,
                           .codec = static_cast<uint8_t>(shape.codec),
                           .combine = static_cast<uint8_t>(fields.combine),
                           .answer_codec = static_cast<uint8_t>(fields.answer_codec),
                           .num_rows = shape.num_rows,
                           .num_pairs = shape.num_pairs,
                           .hidden = shape.hidden,
                           .payload_bytes = layout.total_bytes - sizeof(FrameHeader)};
  GH_CHECK(check_fields(header) && check_counts(header));
  std::memcpy(out.data(), &header, sizeof header);
  const size_t pairs_end = layout.pairs_offset + shape.num_pairs * sizeof(DispatchPair);
  std::memset(out.data() + pairs_end, 0, layout.rows_offset - pairs_end);
  const size_t rows_bytes = shape.num_rows * layout.row_bytes;
  if (!tail) std::memset(out.data() + layout.rows_offset + rows_bytes, 0, layout.tail_bytes() - rows_bytes);
  return {.pairs = {reinterpret_cast<DispatchPair*>(out.data() + layout.pairs_offset), shape.num_pairs},
          .rows = {tail ? tail : out.data() + layout.rows_offset, rows_bytes},
          .row_bytes = layout.row_bytes,
          .total_bytes = end};
}

}  // namespace

FrameLayout frame_layout(const FrameShape& shape) {
  FrameLayout layout{};
  layout.pairs_offset = sizeof(FrameHeader);
  layout.rows_offset = layout.pairs_offset + padded(size_t{shape.num_pairs} * sizeof(DispatchPair));
  layout.row_bytes = row_bytes(shape.codec, shape.hidden);
  layout.total_bytes = layout.rows_offset + padded(shape.num_rows * layout.row_bytes);
  return layout;
}

FrameSections begin_dispatch(const FrameFields& fields, const FrameShape& shape, std::span<std::byte> out,
                             std::byte* tail) {
  return begin_frame(FrameKind::dispatch, fields, shape, out, tail);
}

FrameSections begin_combine(const FrameFields& fields, const FrameShape& shape, std::span<std::byte> out,
                            std::byte* tail) {
  return begin_frame(FrameKind::combine, fields, shape, out, tail);
}

FrameShape answer_shape(const FrameHeader& dispatch) {
  return {.num_rows = combine_of(dispatch) == Combine::exact ? dispatch.num_pairs : dispatch.num_rows,
          .hidden = dispatch.hidden,
          .codec = static_cast<Codec>(dispatch.answer_codec)};
}

FrameFields answer_fields(const FrameHeader& dispatch) {
  return {.generation = dispatch.generation,
          .step_id = dispatch.step_id,
          .placement_version = dispatch.placement_version,
          .layer = dispatch.layer,
          .micro_batch = dispatch.micro_batch,
          .combine = combine_of(dispatch)};
}

void seal_frame(std::span<std::byte> frame) {
  GH_CHECK(frame.size() >= sizeof(FrameHeader));
  const uint32_t checksum = crc32c(frame.subspan(sizeof(FrameHeader)));
  std::memcpy(frame.data() + offsetof(FrameHeader, payload_crc32c), &checksum, sizeof checksum);
}

size_t write_failure(const FrameFields& fields, const Status& why, std::span<std::byte> out) {
  GH_CHECK(aligned(out.data()) && out.size() >= kMaxFailureFrameBytes);
  const size_t message_bytes = std::min<size_t>(why.message.size(), kMaxFailureMessage);
  const size_t total_bytes = kFailurePrefix + padded(message_bytes);
  const FrameHeader header{.magic = kExchangeMagic,
                           .version = kExchangeVersion,
                           .kind = static_cast<uint16_t>(FrameKind::failure),
                           .generation = fields.generation,
                           .step_id = fields.step_id,
                           .placement_version = fields.placement_version,
                           .layer = fields.layer,
                           .micro_batch = fields.micro_batch,
                           .payload_bytes = total_bytes - sizeof(FrameHeader)};
  const FailureBody body{.code = static_cast<uint16_t>(to_wire(why.code)),
                         .message_bytes = static_cast<uint16_t>(message_bytes)};
  std::memset(out.data(), 0, total_bytes);
  std::memcpy(out.data(), &header, sizeof header);
  std::memcpy(out.data() + sizeof header, &body, sizeof body);
  std::memcpy(out.data() + kFailurePrefix, why.message.data(), message_bytes);
  return total_bytes;
}

Result<FrameHeader> decode_header(const FrameBytes& frame) {
  if (frame.bytes.size() < sizeof(FrameHeader))
    return refuse(
        fmt::format("{} bytes are less than a header's {}", frame.bytes.size(), sizeof(FrameHeader)));
  if (!aligned(frame.bytes.data())) return refuse("it does not begin at a multiple of 8 bytes");
  FrameHeader header;
  std::memcpy(&header, frame.bytes.data(), sizeof header);
  GH_TRY(check_fields(header));
  switch (static_cast<FrameKind>(header.kind)) {
    case FrameKind::dispatch:
    case FrameKind::combine:
      GH_TRY(check_counts(header));
      break;
    case FrameKind::failure:
      GH_TRY(check_failure_counts(header));
      break;
    case FrameKind::weights_request:
      GH_TRY(check_no_rows(header, "weights", sizeof(WeightsRequestBody), 0));
      break;
    case FrameKind::weights:
      GH_TRY(check_no_rows(header, "weights", sizeof(WeightsBody), kMaxWeightsChunk));
      break;
    case FrameKind::hint:
      GH_TRY(check_no_rows(header, "hints", sizeof(HintBody), kMaxExperts * sizeof(uint16_t)));
      break;
    default:
      return refuse(fmt::format("kind {} is not known", header.kind));
  }
  const size_t came = frame.bytes.size() + frame.tail.size() - sizeof(FrameHeader);
  if (came != header.payload_bytes)
    return refuse(fmt::format("payload_bytes is {}, {} bytes came", header.payload_bytes, came));
  return header;
}

Result<DispatchView> decode_dispatch(const FrameBytes& frame) {
  GH_ASSIGN(const FrameHeader header, decode_kind(frame, FrameKind::dispatch));
  const FrameLayout layout = frame_layout(shape_of(header));
  const std::span<const DispatchPair> pairs{
      reinterpret_cast<const DispatchPair*>(frame.bytes.data() + layout.pairs_offset), header.num_pairs};
  GH_TRY(check_pairs(header, pairs));
  return DispatchView{header, pairs, rows_of(frame, header, layout), layout.row_bytes, !frame.tail.empty()};
}

Result<CombineView> decode_combine(const FrameBytes& frame) {
  GH_ASSIGN(const FrameHeader header, decode_kind(frame, FrameKind::combine));
  const FrameLayout layout = frame_layout(shape_of(header));
  return CombineView{header, rows_of(frame, header, layout), layout.row_bytes, !frame.tail.empty()};
}

Result<FailureView> decode_failure(const FrameBytes& frame) {
  GH_ASSIGN(const FrameHeader header, decode_kind(frame, FrameKind::failure));
  FailureBody body;
  std::memcpy(&body, frame.bytes.data() + sizeof(FrameHeader), sizeof body);
  if (body.reserved != 0) return refuse("the failure's reserved field is not 0");
  if (body.message_bytes > kMaxFailureMessage ||
      padded(body.message_bytes) != header.payload_bytes - sizeof(FailureBody))
    return refuse(fmt::format("message_bytes {} of a failure does not match its payload_bytes {}",
                              body.message_bytes, header.payload_bytes));
  const auto* message = reinterpret_cast<const char*>(frame.bytes.data() + kFailurePrefix);
  return FailureView{header, Status{from_wire(body.code), std::string(message, body.message_bytes)}};
}

}  // namespace guildhall
