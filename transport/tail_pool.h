// tail_pool.h: device memory for frames' tails (exchange.h), reusable, so that steady state allocates nothing
// and a network card registers each buffer once. Any thread; buffers may outlive the pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"

namespace guildhall {

// Goes back to its pool with the last of its owners.
using TailBuffer = std::shared_ptr<std::byte>;

struct TailMemory {
  // Memory of the device that network cards and other processes may read and write; at least 256-byte
  // aligned. Any thread.
  std::function<Result<TailBuffer>(size_t bytes)> allocate;
  // Fewer bytes go with the rest of their frame, through the host: two copies in waits that are there anyway
  // against a wait for the device more.
  size_t min_bytes = 0;
  bool is_host = false;  // the host's, for tests: every UCX knows it
};

class TailPool {
 public:
  explicit TailPool(TailMemory memory);

  // Whether so many bytes should go as a tail. No more do once memory has run out.
  bool wants(size_t bytes) const { return bytes >= memory_.min_bytes && !exhausted_.load(); }
  // At least `bytes` long, rounded up to a power of two. Contents are undefined.
  Result<TailBuffer> take(size_t bytes);
  bool is_host() const { return memory_.is_host; }
  uint64_t num_taken() const { return num_taken_.load(); }

 private:
  struct Idle;
  const TailMemory memory_;
  const std::shared_ptr<Idle> idle_;
  std::atomic<bool> exhausted_{false};
  std::atomic<uint64_t> num_taken_{0};
};

}  // namespace guildhall
