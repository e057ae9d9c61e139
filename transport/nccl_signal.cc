// nccl_signal.cc: bytes to signals and back; the only place that knows their layout.
#include "transport/nccl_signal.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace guildhall {
namespace {

static_assert(std::endian::native == std::endian::little, "the layout is written by memcpy");

struct OfferBody {
  uint32_t rank, num_ranks;
  uint32_t parent_generation, num_excluded;  // num_excluded times u32 follow
  UniqueIdBytes out, back;
};
static_assert(sizeof(OfferBody) == 272);

Status refused(std::string what) { return {Code::data_loss, "signal refused: " + std::move(what)}; }

}  // namespace

Result<SignalHeader> decode_signal(std::span<const std::byte> bytes) {
  SignalHeader header;
  if (bytes.size() < sizeof header)
    return refused(fmt::format("{} bytes are no header of {}", bytes.size(), sizeof header));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kSignalMagic)
    return refused(fmt::format("magic {:#x} instead of {:#x}; do both ends have transport.kind: nccl?",
                               header.magic, kSignalMagic));
  if (header.version == 0 || header.version > kSignalVersion)
    return Status{
        Code::unsupported,
        fmt::format("signal of version {}; this build knows up to {}; run the same release everywhere",
                    header.version, kSignalVersion)};
  if (header.kind >= kNumSignalKinds) return refused(fmt::format("unknown kind {}", header.kind));
  if (header.link == 0) return refused("link 0");
  if (header.of_sender > 1) return refused(fmt::format("of_sender {}", header.of_sender));
  const auto kind = static_cast<SignalKind>(header.kind);
  const bool has_body = kind == SignalKind::frame || kind == SignalKind::resend || kind == SignalKind::offer;
  const size_t body_bytes = bytes.size() - sizeof header;
  if (body_bytes != (has_body ? header.bytes : 0))
    return refused(fmt::format("kind {} says {} bytes, {} came", header.kind, header.bytes, body_bytes));
  return header;
}

void encode_signal(SignalHeader header, std::span<std::byte> region) {
  header.magic = kSignalMagic;
  header.version = kSignalVersion;
  std::memcpy(region.data(), &header, sizeof header);
}

std::string encode_offer(const CommOffer& offer) {
  const OfferBody body{
      offer.rank, offer.num_ranks, offer.parent_generation, static_cast<uint32_t>(offer.excluded.size()),
      offer.out,  offer.back};
  std::string bytes(sizeof body + offer.excluded.size() * sizeof(uint32_t), '\0');
  std::memcpy(bytes.data(), &body, sizeof body);
  if (!offer.excluded.empty())
    std::memcpy(bytes.data() + sizeof body, offer.excluded.data(), bytes.size() - sizeof body);
  return bytes;
}

Result<CommOffer> decode_offer(std::span<const std::byte> bytes) {
  OfferBody body;
  if (bytes.size() < sizeof body) return refused(fmt::format("an offer of {} bytes", bytes.size()));
  std::memcpy(&body, bytes.data(), sizeof body);
  if (body.num_ranks < 2 || body.num_ranks > kMaxRanks || body.rank == 0 || body.rank >= body.num_ranks)
    return refused(
        fmt::format("an offer of rank {} among {}; {} are possible", body.rank, body.num_ranks, kMaxRanks));
  if (body.num_excluded > kMaxRanks || (body.parent_generation == 0 && body.num_excluded > 0) ||
      bytes.size() != sizeof body + body.num_excluded * sizeof(uint32_t))
    return refused(
        fmt::format("an offer that excludes {} ranks in {} bytes", body.num_excluded, bytes.size()));
  CommOffer offer{body.rank, body.num_ranks, body.out, body.back, body.parent_generation, {}};
  offer.excluded.resize(body.num_excluded);
  if (body.num_excluded > 0)
    std::memcpy(offer.excluded.data(), bytes.data() + sizeof body, body.num_excluded * sizeof(uint32_t));
  for (size_t i = 0; i < offer.excluded.size(); ++i)
    if (offer.excluded[i] == 0 || (i > 0 && offer.excluded[i] <= offer.excluded[i - 1]))
      return refused("an offer whose excluded ranks are out of order");
  return offer;
}

size_t bucket_bytes(size_t bytes) {
  constexpr size_t kSmallest = 4096;
  if (bytes <= kSmallest) return kSmallest;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

size_t capacity_bytes(size_t bytes) {
  constexpr size_t kSmallest = 16 << 10;
  return std::max(kSmallest, std::bit_ceil(bytes));
}

size_t most_wire_bytes(size_t max_frame_bytes) {
  return std::max(bucket_bytes(max_frame_bytes), capacity_bytes(max_frame_bytes));
}

}  // namespace guildhall
