// arena.h: one block of a device's memory for weights; never moved.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "kernels/device_memory.h"

namespace guildhall {

inline constexpr int64_t kWeightAlignment = 64;  // a cache line, and an AVX-512 register
constexpr int64_t align_weight(int64_t bytes) {
  return (bytes + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
}

class Arena {
 public:
  Arena() = default;
  // resource_exhausted, with both numbers, when the device has not that much memory available.
  static Result<Arena> allocate(int64_t bytes, DeviceMemory& device);
  // Whether that much could be allocated now, in blocks of any size.
  static Result<void> check_available(int64_t bytes, const DeviceMemory& device);

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  MemoryBlock data_;
  int64_t bytes_ = 0;
};

}  // namespace guildhall
