#include "proto/weights_codec.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

constexpr size_t padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }
constexpr size_t kBytesOffset = sizeof(FrameHeader) + sizeof(WeightsBody);

Status refuse(std::string why) { return Status{Code::data_loss, "frame refused: " + std::move(why)}; }

void write_header(FrameKind kind, uint64_t generation, uint64_t step_id, uint16_t layer, size_t frame_bytes,
                  std::span<std::byte> out) {
  GH_CHECK(reinterpret_cast<uintptr_t>(out.data()) % 8 == 0 && out.size() >= frame_bytes);
  const FrameHeader header{.magic = kExchangeMagic,
                           .version = kExchangeVersion,
                           .kind = static_cast<uint16_t>(kind),
                           .generation = generation,
                           .step_id = step_id,
                           .layer = layer,
                           .payload_bytes = frame_bytes - sizeof(FrameHeader)};
  std::memcpy(out.data(), &header, sizeof header);
}

// The header of a frame of this kind and its body, the payload's checksum verified.
template <class Body>
Result<FrameHeader> decode_body(const FrameBytes& frame, FrameKind kind, Body& body) {
  GH_ASSIGN(const FrameHeader header, decode_header(frame));
  if (header.kind != static_cast<uint16_t>(kind))
    return refuse(fmt::format("kind {} where {} was due", header.kind, static_cast<uint16_t>(kind)));
  if (!frame.tail.empty()) return refuse("weights have no rows, but a tail");
  if (header.payload_crc32c != 0) {
    const uint32_t actual = crc32c(frame.bytes.subspan(sizeof(FrameHeader)));
    if (actual != header.payload_crc32c)
      return refuse(fmt::format("payload_crc32c is {:#010x}, the payload's is {:#010x}",
                                header.payload_crc32c, actual));
  }
  std::memcpy(&body, frame.bytes.data() + sizeof header, sizeof body);
  if (body.reserved != 0) return refuse("the reserved field of weights is not 0");
  if (body.expert >= kMaxExperts)
    return refuse(fmt::format("expert {} is not below {}", body.expert, kMaxExperts));
  return header;
}

Result<void> check_request(const WeightsRequestBody& body) {
  if (body.max_bytes == 0 || body.max_bytes > kMaxWeightsChunk)
    return refuse(fmt::format("max_bytes {} is not in [1, {}]", body.max_bytes, kMaxWeightsChunk));
  if (body.offset >= kMaxExpertBytes)
    return refuse(fmt::format("offset {} is not below {}", body.offset, kMaxExpertBytes));
  return {};
}

Result<void> check_chunk(const WeightsBody& body) {
  if (body.type >= kNumWeightTypes) return refuse(fmt::format("type {} is not known", body.type));
  if (body.chunk_bytes == 0 || body.chunk_bytes > kMaxWeightsChunk)
    return refuse(fmt::format("chunk_bytes {} is not in [1, {}]", body.chunk_bytes, kMaxWeightsChunk));
  if (body.total_bytes > kMaxExpertBytes)
    return refuse(fmt::format("total_bytes {} exceeds {}", body.total_bytes, kMaxExpertBytes));
  if (body.offset > body.total_bytes || body.chunk_bytes > body.total_bytes - body.offset)
    return refuse(fmt::format("bytes [{}, +{}) are not within the {} of the expert", body.offset,
                              body.chunk_bytes, body.total_bytes));
  return {};
}

}  // namespace

size_t write_weights_request(uint64_t generation, uint64_t step_id, const WeightsRequest& request,
                             std::span<std::byte> out) {
  const WeightsRequestBody body{
      .expert = request.expert, .max_bytes = request.max_bytes, .offset = request.offset};
  GH_CHECK(check_request(body) && request.layer < kMaxLayers && request.expert < kMaxExperts);
  write_header(FrameKind::weights_request, generation, step_id, request.layer, kWeightsRequestBytes, out);
  std::memcpy(out.data() + sizeof(FrameHeader), &body, sizeof body);
  return kWeightsRequestBytes;
}

size_t weights_frame_bytes(size_t chunk_bytes) { return kBytesOffset + padded(chunk_bytes); }

size_t write_weights(uint64_t generation, uint64_t step_id, const WeightsChunk& chunk,
                     std::span<std::byte> out) {
  const size_t size = chunk.bytes.size(), total = weights_frame_bytes(size);
  const WeightsBody body{.expert = chunk.expert,
                         .type = static_cast<uint16_t>(chunk.type),
                         .chunk_bytes = static_cast<uint32_t>(size),
                         .offset = chunk.offset,
                         .total_bytes = chunk.total_bytes,
                         .crc32c = chunk.crc32c};
  GH_CHECK(check_chunk(body) && chunk.layer < kMaxLayers && chunk.expert < kMaxExperts);
  write_header(FrameKind::weights, generation, step_id, chunk.layer, total, out);
  std::memcpy(out.data() + sizeof(FrameHeader), &body, sizeof body);
  std::memcpy(out.data() + kBytesOffset, chunk.bytes.data(), size);
  std::memset(out.data() + kBytesOffset + size, 0, total - kBytesOffset - size);
  return total;
}

Result<WeightsRequestView> decode_weights_request(const FrameBytes& frame) {
  WeightsRequestBody body;
  GH_ASSIGN(const FrameHeader header, decode_body(frame, FrameKind::weights_request, body));
  GH_TRY(check_request(body));
  return WeightsRequestView{
      header,
      {.layer = header.layer, .expert = body.expert, .max_bytes = body.max_bytes, .offset = body.offset}};
}

Result<WeightsView> decode_weights(const FrameBytes& frame) {
  WeightsBody body;
  GH_ASSIGN(const FrameHeader header, decode_body(frame, FrameKind::weights, body));
  GH_TRY(check_chunk(body));
  if (padded(body.chunk_bytes) != header.payload_bytes - sizeof(WeightsBody))
    return refuse(fmt::format("chunk_bytes {} does not match its payload_bytes {}", body.chunk_bytes,
                              header.payload_bytes));
  return WeightsView{header,
                     {.layer = header.layer,
                      .expert = body.expert,
                      .type = static_cast<WeightType>(body.type),
                      .offset = body.offset,
                      .total_bytes = body.total_bytes,
                      .crc32c = body.crc32c,
                      .bytes = frame.bytes.subspan(kBytesOffset, body.chunk_bytes)}};
}

}  // namespace guildhall
