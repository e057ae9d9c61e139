// codec.h: data-plane frames as bytes and back; the only place where the two meet. Layout and bounds:
// WIRE.md. Decoding trusts nothing: every count, offset and index is checked before a view is handed out, and
// a refusal says which field was wrong. Views borrow the frame's bytes. What is in a row is the business of
// kernels/row_codec.h. Any thread.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "proto/exchange.h"

namespace guildhall {

struct FrameShape {
  uint32_t num_rows = 0, num_pairs = 0, hidden = 0;
  Codec codec = Codec::bf16;
};

struct FrameLayout {
  size_t pairs_offset;  // from the frame's start
  size_t rows_offset;   // multiple of 8
  size_t row_bytes;     // rows are packed: no padding between them
  size_t total_bytes;   // header included
  size_t tail_bytes() const { return total_bytes - rows_offset; }
};

// What a frame of this shape takes: `acquire(peer, frame_layout({T, P, H, codec}).total_bytes)`.
// Shapes beyond the bounds of exchange.h have a layout too; begin_frame refuses them.
FrameLayout frame_layout(const FrameShape& shape);

// The header's fields that are not derived from the layout.
struct FrameFields {
  uint64_t generation = 0;
  uint64_t step_id = 0;
  uint32_t placement_version = 0;
  uint16_t layer = 0;
  uint16_t micro_batch = 0;
  Combine combine = Combine::exact;  // of a combine, or what a dispatch asks for
  Codec answer_codec = Codec::f32;   // what a dispatch asks for
};

// ---- Writing

// Where the caller puts the frame's content. `pairs` is empty in a combine.
struct FrameSections {
  std::span<DispatchPair> pairs;
  std::span<std::byte> rows;  // num_rows * row_bytes
  size_t row_bytes;
  size_t total_bytes;  // of `out`
  std::byte* row(size_t row_idx) const { return rows.data() + row_idx * row_bytes; }
};

// Write the header (and zero the padding) into `out` and return the sections to fill. `out` is 8-byte aligned
// and at least frame_layout(shape).total_bytes long, and the shape and fields are within bounds: anything
// else is a bug. With a `tail`, a device's memory, the rows are there, and `out` ends before them.
FrameSections begin_dispatch(const FrameFields& fields, const FrameShape& shape, std::span<std::byte> out,
                             std::byte* tail = nullptr);
FrameSections begin_combine(const FrameFields& fields, const FrameShape& shape, std::span<std::byte> out,
                            std::byte* tail = nullptr);

// Stamps the payload's checksum into a finished frame of `total_bytes`; for links that do not protect their
// bytes.
void seal_frame(std::span<std::byte> frame);

// A whole failure frame; returns its size. Longer messages are cut at kMaxFailureMessage. `out` holds at
// least kMaxFailureFrameBytes.
inline constexpr size_t kMaxFailureFrameBytes =
    sizeof(FrameHeader) + sizeof(FailureBody) + kMaxFailureMessage;
size_t write_failure(const FrameFields& fields, const Status& why, std::span<std::byte> out);

// ---- Reading

// A frame as it came: its bytes, and its rows where those lie apart, in a device's memory: its tail, which
// nothing here looks at.
struct FrameBytes {
  template <std::convertible_to<std::span<const std::byte>> Bytes>
  FrameBytes(const Bytes& whole) : bytes(whole) {}
  FrameBytes(std::span<const std::byte> head, std::span<const std::byte> rows) : bytes(head), tail(rows) {}
  std::span<const std::byte> bytes, tail;
};

struct DispatchView {
  FrameHeader header;
  std::span<const DispatchPair>
      pairs;  // [num_pairs], checked: rows ascend and are in range, ranks ascend in a row
  std::span<const std::byte> rows;  // [num_rows * row_bytes], 8-byte aligned
  size_t row_bytes;
  bool rows_on_device;  // they are the frame's tail
  const std::byte* row(size_t row_idx) const { return rows.data() + row_idx * row_bytes; }
};

struct CombineView {
  FrameHeader header;
  std::span<const std::byte> rows;  // as in DispatchView
  size_t row_bytes;
  bool rows_on_device;
  const std::byte* row(size_t row_idx) const { return rows.data() + row_idx * row_bytes; }
};

struct FailureView {
  FrameHeader header;
  Status why;
};

// Checks the header and that the frame is as long as it says, not the payload: for choosing by kind.
Result<FrameHeader> decode_header(const FrameBytes& frame);

// Check the whole frame, checksum included when there is one. Another kind than the one asked for is refused.
Result<DispatchView> decode_dispatch(const FrameBytes& frame);
Result<CombineView> decode_combine(const FrameBytes& frame);
Result<FailureView> decode_failure(const FrameBytes& frame);

// A checked header's codes as what they mean.
inline Codec codec_of(const FrameHeader& header) { return static_cast<Codec>(header.codec); }
inline Combine combine_of(const FrameHeader& header) { return static_cast<Combine>(header.combine); }

// The frame that answers a checked dispatch: its shape, and the fields it repeats.
FrameShape answer_shape(const FrameHeader& dispatch);
FrameFields answer_fields(const FrameHeader& dispatch);

}  // namespace guildhall
