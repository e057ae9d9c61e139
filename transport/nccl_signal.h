// nccl_signal.h: what the ends of an NCCL exchange tell each other beside NCCL: frames that are small, frames
// announced, and the life of communicators. Layout, bounds and meaning: WIRE.md, "Under the frames: NCCL".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace guildhall {

enum class SignalKind : uint16_t {
  frame = 0,     // the rest is the frame
  announce = 1,  // the frame comes over NCCL
  resend = 2,    // the rest is a frame that was announced
  ack = 3,       // nothing but what every header says
  offer = 4,     // hub -> member: join this communicator; the rest is an offer
  accepted = 5,  // member -> hub: joining
  joined = 6,    // member -> hub
  live = 7,      // hub -> member: all have joined
  broken = 8,    // member -> hub: given up here
  close = 9,     // hub -> member: over
};
inline constexpr uint16_t kNumSignalKinds = 10;

// 64 bytes, little-endian. What is out of bounds loses the link.
struct SignalHeader {
  uint32_t magic = 0;           //  0  kSignalMagic
  uint16_t version = 0;         //  4  kSignalVersion; newer: refused
  uint16_t kind = 0;            //  6  SignalKind
  uint32_t link = 0;            //  8  counts the sender's connects, from 1; of an ended link: dropped
  uint32_t generation = 0;      // 12  of the communicator that is meant; frame, resend, ack: 0
  uint32_t of_sender = 0;       // 16  1: the sender is that communicator's hub; 0: the receiver is
  uint32_t ack_generation = 0;  // 20  the communicator of ack_count; 0: none
  uint64_t ack_count = 0;       // 24  frames of the other direction received over it so far
  uint64_t sequence = 0;        // 32  frame, announce, resend: the frame's number on its link, from 0
  uint64_t bytes = 0;           // 40  announce: the frame's length; offer, frame, resend: of what follows
  uint64_t wire_bytes = 0;      // 48  announce: what it takes on NCCL's wire; >= bytes, <= most_wire_bytes()
  uint64_t reserved = 0;        // 56  0
};
static_assert(sizeof(SignalHeader) == 64);
inline constexpr uint32_t kSignalMagic = 0x314e4847;  // "GHN1"
inline constexpr uint16_t kSignalVersion = 2;         // 2: wire_bytes
inline constexpr uint32_t kMaxRanks = 4096;

// Its magic, version, kind, link and length are right.
Result<SignalHeader> decode_signal(std::span<const std::byte> bytes);
void encode_signal(SignalHeader header, std::span<std::byte> region);  // magic and version are filled in

using UniqueIdBytes = std::array<std::byte, 128>;  // of an ncclUniqueId

// Two communicators of the same ranks; the hub is rank 0. `out` carries the hub's frames, `back` those to it.
struct CommOffer {
  uint32_t rank = 0, num_ranks = 0;  // of whom it is sent to
  UniqueIdBytes out{}, back{};       // unused where a parent is named
  uint32_t parent_generation = 0;    // > 0: shrink that communicator, without the ranks excluded
  std::vector<uint32_t> excluded;    // ranks of the parent, ascending
};
std::string encode_offer(const CommOffer& offer);
Result<CommOffer> decode_offer(std::span<const std::byte> bytes);

// What a frame of `bytes` takes on the wire of NCCL and in pools: the next of eight sizes per power of two,
// so that few different operations are seen, each at most an eighth too long.
size_t bucket_bytes(size_t bytes);
// What small frames take, whose operations are recorded: the next power of two, so that there are few
// records.
size_t capacity_bytes(size_t bytes);
// The most that a sender may ask for where frames have max_frame_bytes.
size_t most_wire_bytes(size_t max_frame_bytes);

}  // namespace guildhall
