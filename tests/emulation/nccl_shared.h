// nccl_shared.h: what the ranks of one stand-in communicator share. All zeros is its first state, so that
// whoever comes first makes it and nobody waits for that. Processes and threads map it each for themselves.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace guildhall::emulation {

inline constexpr int kMaxStandInRanks = 8;
inline constexpr size_t kRingBytes = 512 << 10;

// What one rank sends to another: messages one after the other, bytes counted from the start.
struct Ring {
  std::atomic<uint64_t> message_bytes;        // of the message under way, plus 1; 0: none is offered
  std::atomic<uint64_t> written, read;        // of that message
  std::atomic<uint64_t> num_sent, num_taken;  // messages
  std::byte bytes[kRingBytes];
};

// One rank's part of the reductions: it fills `bytes`, all read all, then all go on.
struct Slice {
  std::atomic<uint64_t> num_filled, num_read;  // slices of this communicator so far
  std::byte bytes[kRingBytes];
};

struct SharedComm {
  std::atomic<uint32_t> joined[kMaxStandInRanks];  // 1 + the number of ranks that this one was told
  Slice slices[kMaxStandInRanks];
  Ring rings[kMaxStandInRanks][kMaxStandInRanks];  // from, to
};

// A mapping of the shared memory with that name; none where the system refuses.
std::shared_ptr<SharedComm> map_shared_comm(const std::string& name);
void unlink_shared_comm(const std::string& name);

}  // namespace guildhall::emulation
