// weights_codec.h: the frames by which one worker gives another an expert, as bytes and back; what codec.h is
// for dispatches and answers. A failure (codec.h) may answer a request too. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "proto/codec.h"

namespace guildhall {

// A part of one expert's bytes that is asked for.
struct WeightsRequest {
  uint16_t layer = 0, expert = 0;
  uint32_t max_bytes = 0;
  uint64_t offset = 0;
};

// The part that came. `bytes` borrow the frame's, or what is sent.
struct WeightsChunk {
  uint16_t layer = 0, expert = 0;
  WeightType type = WeightType::f32;
  uint64_t offset = 0, total_bytes = 0;
  uint32_t crc32c = 0;  // of the expert's bytes from 0 to this chunk's end
  std::span<const std::byte> bytes;
};

// ---- Writing: whole frames into `out`, 8-byte aligned and long enough. Fields are within bounds: anything
// else is a bug. They return the frame's size.

inline constexpr size_t kWeightsRequestBytes = sizeof(FrameHeader) + sizeof(WeightsRequestBody);
size_t write_weights_request(uint64_t generation, uint64_t step_id, const WeightsRequest& request,
                             std::span<std::byte> out);

size_t weights_frame_bytes(size_t chunk_bytes);
size_t write_weights(uint64_t generation, uint64_t step_id, const WeightsChunk& chunk,
                     std::span<std::byte> out);

// ---- Reading. Bounds and the payload's own checksum, if it has one, are checked; the expert's is for who
// puts it together.

struct WeightsRequestView {
  FrameHeader header;
  WeightsRequest request;
};
struct WeightsView {
  FrameHeader header;
  WeightsChunk chunk;
};

Result<WeightsRequestView> decode_weights_request(const FrameBytes& frame);
Result<WeightsView> decode_weights(const FrameBytes& frame);

}  // namespace guildhall
