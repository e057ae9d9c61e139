// hint_codec.h: the frame by which a router tells a worker that offloads experts which of a layer it will
// probably be asked for next, as bytes and back; what codec.h is for dispatches. Nobody answers it. Any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "proto/codec.h"

namespace guildhall {

size_t hint_frame_bytes(size_t num_experts);
// A whole frame into `out`, 8-byte aligned and long enough; returns its size. `experts`: the likeliest first,
// in [1, kMaxExperts] of them, each below that: anything else is a bug.
size_t write_hint(uint64_t generation, uint64_t step_id, uint16_t layer, std::span<const uint16_t> experts,
                  std::span<std::byte> out);

struct HintView {
  FrameHeader header;
  std::span<const uint16_t> experts;  // the frame's bytes
};
Result<HintView> decode_hint(const FrameBytes& frame);

}  // namespace guildhall
