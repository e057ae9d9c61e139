// slot_options.h: how much memory each link keeps for frames that peers put there (transport.slots).
#pragma once

#include <cstddef>
#include <cstdint>

namespace guildhall {

inline constexpr uint32_t kMaxSlots = 64;
inline constexpr size_t kMaxSlotBytes = size_t{1} << 30;

struct SlotOptions {
  // Two micro-batches, and for each the frame being written and the one being read.
  uint32_t num = 4;                // 0: none, every frame is an active message
  size_t bytes = size_t{2} << 20;  // of one; larger frames are active messages

  size_t stride() const { return (bytes + 63) / 64 * 64; }  // frames are 64-byte aligned
  size_t link_bytes() const { return num * stride(); }      // per peer, at each end
};

}  // namespace guildhall
