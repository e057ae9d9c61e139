// fuzz_frame.cc: any bytes as a data-plane frame. Whatever a decoder accepts stays inside the frame and its
// bounds.
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "proto/hint_codec.h"
#include "proto/weights_codec.h"

namespace {

using namespace guildhall;

void check_inside(std::span<const std::byte> part, std::span<const std::byte> frame) {
  GH_CHECK(part.data() >= frame.data() && part.data() + part.size() <= frame.data() + frame.size());
}

void check_frame(std::span<const std::byte> frame) {
  const auto header = decode_header(frame);
  const auto dispatch = decode_dispatch(frame);
  const auto combine = decode_combine(frame);
  const auto failure = decode_failure(frame);
  const auto request = decode_weights_request(frame);
  const auto weights = decode_weights(frame);
  const auto hint = decode_hint(frame);
  GH_CHECK(dispatch.has_value() + combine.has_value() + failure.has_value() + request.has_value() +
               weights.has_value() + hint.has_value() <=
           (header ? 1 : 0));
  if (dispatch) {
    check_inside(std::as_bytes(dispatch->pairs), frame);
    check_inside(dispatch->rows, frame);
    GH_CHECK(dispatch->rows.size() == dispatch->header.num_rows * dispatch->row_bytes);
    for (const DispatchPair& pair : dispatch->pairs) GH_CHECK(pair.row < dispatch->header.num_rows);
  }
  if (combine) {
    check_inside(combine->rows, frame);
    GH_CHECK(combine->rows.size() == combine->header.num_rows * combine->row_bytes);
  }
  if (failure) GH_CHECK(failure->why.message.size() <= kMaxFailureMessage);
  if (request) GH_CHECK(request->request.max_bytes > 0 && request->request.max_bytes <= kMaxWeightsChunk);
  if (hint) {
    check_inside(std::as_bytes(hint->experts), frame);
    for (const uint16_t expert : hint->experts) GH_CHECK(expert < kMaxExperts);
  }
  if (weights) {
    const WeightsChunk& chunk = weights->chunk;
    check_inside(chunk.bytes, frame);
    GH_CHECK(!chunk.bytes.empty() && chunk.bytes.size() <= kMaxWeightsChunk);
    GH_CHECK(chunk.offset <= chunk.total_bytes && chunk.bytes.size() <= chunk.total_bytes - chunk.offset);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint64_t> words((size + 7) / 8);  // frames begin at a multiple of 8
  if (size > 0) std::memcpy(words.data(), data, size);
  const std::span<std::byte> frame(reinterpret_cast<std::byte*>(words.data()), size);
  check_frame(frame);
  if (size < sizeof(FrameHeader)) return 0;
  // The same once more past the checks that mutations seldom pass: the true length, no checksum.
  FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof header);
  header.payload_bytes = size - sizeof header;
  header.payload_crc32c = 0;
  std::memcpy(frame.data(), &header, sizeof header);
  check_frame(frame);
  return 0;
}
