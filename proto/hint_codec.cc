#include "proto/hint_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

constexpr size_t kExpertsOffset = sizeof(FrameHeader) + sizeof(HintBody);

Status refuse(std::string why) { return Status{Code::data_loss, "frame refused: " + std::move(why)}; }

}  // namespace

size_t hint_frame_bytes(size_t num_experts) {
  return (kExpertsOffset + num_experts * sizeof(uint16_t) + 7) & ~size_t{7};
}

size_t write_hint(uint64_t generation, uint64_t step_id, uint16_t layer, std::span<const uint16_t> experts,
                  std::span<std::byte> out) {
  const size_t total = hint_frame_bytes(experts.size());
  GH_CHECK(reinterpret_cast<uintptr_t>(out.data()) % 8 == 0 && out.size() >= total);
  GH_CHECK(!experts.empty() && experts.size() <= kMaxExperts && layer < kMaxLayers);
  const FrameHeader header{.magic = kExchangeMagic,
                           .version = kExchangeVersion,
                           .kind = static_cast<uint16_t>(FrameKind::hint),
                           .generation = generation,
                           .step_id = step_id,
                           .layer = layer,
                           .payload_bytes = total - sizeof(FrameHeader)};
  const HintBody body{.num_experts = static_cast<uint32_t>(experts.size())};
  std::memset(out.data(), 0, total);
  std::memcpy(out.data(), &header, sizeof header);
  std::memcpy(out.data() + sizeof header, &body, sizeof body);
  std::memcpy(out.data() + kExpertsOffset, experts.data(), experts.size_bytes());
  return total;
}

Result<HintView> decode_hint(const FrameBytes& frame) {
  GH_ASSIGN(const FrameHeader header, decode_header(frame));
  if (header.kind != static_cast<uint16_t>(FrameKind::hint))
    return refuse(
        fmt::format("kind {} where {} was due", header.kind, static_cast<uint16_t>(FrameKind::hint)));
  if (!frame.tail.empty()) return refuse("a hint has no rows, but a tail");
  if (header.payload_crc32c != 0) {
    const uint32_t actual = crc32c(frame.bytes.subspan(sizeof header));
    if (actual != header.payload_crc32c)
      return refuse(fmt::format("payload_crc32c is {:#010x}, the payload's is {:#010x}",
                                header.payload_crc32c, actual));
  }
  HintBody body;
  std::memcpy(&body, frame.bytes.data() + sizeof header, sizeof body);
  if (body.reserved != 0) return refuse("the reserved field of a hint is not 0");
  if (body.num_experts == 0 || body.num_experts > kMaxExperts)
    return refuse(fmt::format("num_experts {} is not in [1, {}]", body.num_experts, kMaxExperts));
  if (hint_frame_bytes(body.num_experts) != frame.bytes.size())
    return refuse(fmt::format("num_experts {} does not match its payload_bytes {}", body.num_experts,
                              header.payload_bytes));
  // At a multiple of 8 bytes.
  const std::span experts(reinterpret_cast<const uint16_t*>(frame.bytes.data() + kExpertsOffset),
                          body.num_experts);
  const auto beyond = std::ranges::find_if(experts, [](uint16_t e) { return e >= kMaxExperts; });
  if (beyond != experts.end()) return refuse(fmt::format("expert {} is not below {}", *beyond, kMaxExperts));
  return HintView{header, experts};
}

}  // namespace guildhall
