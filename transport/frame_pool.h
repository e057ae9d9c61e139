// frame_pool.h: reusable, 64-byte aligned memory for frames, so that steady state allocates nothing.
//
// Not locked: one thread, or its owner's lock. Sizes are rounded up to powers of two; the tail of a large
// buffer that no frame reaches is never touched, so the rounding costs address space, not memory.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace guildhall {

class FrameBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  FrameBuffer() = default;
  // Empty when there is no memory.
  explicit FrameBuffer(size_t capacity)
      : data_(
            static_cast<std::byte*>(::operator new[](capacity, std::align_val_t{kAlignment}, std::nothrow))),
        capacity_(data_ ? capacity : 0) {}

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_.get(); }
  size_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(std::byte* data) const { ::operator delete[](data, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t capacity_ = 0;
};

class FramePool {
 public:
  // Buffers given back beyond this many bytes are freed: a burst must not pin memory for good.
  static constexpr size_t kMaxIdleBytes = size_t{256} << 20;

  // At least `bytes` long; empty when there is no memory.
  FrameBuffer take(size_t bytes) {
    const size_t capacity = std::bit_ceil(bytes < kMinCapacity ? kMinCapacity : bytes);
    auto& idle = idle_[class_of(capacity)];
    if (idle.empty()) return FrameBuffer(capacity);
    FrameBuffer buffer = std::move(idle.back());
    idle.pop_back();
    idle_bytes_ -= capacity;
    return buffer;
  }

  void give(FrameBuffer buffer) {
    if (!buffer || idle_bytes_ + buffer.capacity() > kMaxIdleBytes) return;
    idle_bytes_ += buffer.capacity();
    idle_[class_of(buffer.capacity())].push_back(std::move(buffer));
  }

 private:
  static constexpr size_t kMinCapacity = 4096;
  static size_t class_of(size_t capacity) { return static_cast<size_t>(std::countr_zero(capacity)); }

  std::array<std::vector<FrameBuffer>, 64> idle_;  // by log2 of the capacity
  size_t idle_bytes_ = 0;
};

}  // namespace guildhall
