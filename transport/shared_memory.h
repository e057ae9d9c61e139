// shared_memory.h: memory that another process of this machine maps. It has no name in any file system: the
// owner's open descriptor is its only handle, so nothing is left behind however either of them ends, and
// neither /dev/shm nor its size matters. (UCX 1.13 could share memory too, but crashes on a key whose owner
// has gone.) Any thread; one owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace guildhall {

// How another process finds it: as /proc/PID/fd/FD. The token tells it from what else may stand there by now.
struct SharedMemoryHandle {
  int32_t pid = 0, fd = -1;
  std::array<uint64_t, 2> token{};
};

class SharedMemory {
 public:
  // Zeroed and really there: a later write cannot fail for want of memory. Errors: resource_exhausted.
  static Result<SharedMemory> create(size_t bytes);
  // Another process's. Errors: unavailable, when it is gone or of another machine, container or user.
  static Result<SharedMemory> map(const SharedMemoryHandle& handle, size_t bytes);

  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  std::byte* data() const { return data_; }  // page-aligned
  const SharedMemoryHandle& handle() const { return handle_; }

 private:
  SharedMemory() = default;

  std::byte* data_ = nullptr;
  size_t mapped_bytes_ = 0;
  SharedMemoryHandle handle_;
  bool owns_fd_ = false;
};

}  // namespace guildhall
