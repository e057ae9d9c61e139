// arena.h: one block of memory for all of a process's weights: page-aligned, huge pages advised, never moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace guildhall {

inline constexpr int64_t kWeightAlignment = 64;  // a cache line, and an AVX-512 register
constexpr int64_t align_weight(int64_t bytes) {
  return (bytes + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
}

class Arena {
 public:
  Arena() = default;
  // resource_exhausted, with both numbers, when the machine has not that much memory available.
  static Result<Arena> allocate(int64_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Arena& operator=(Arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace guildhall
