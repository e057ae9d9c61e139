#include "transport/tail_pool.h"

#include <array>
#include <bit>
#include <mutex>
#include <vector>

#include "base/log.h"

namespace guildhall {
namespace {

constexpr size_t kMinCapacity = 4096;

}  // namespace

struct TailPool::Idle {
  std::mutex mutex;
  std::array<std::vector<TailBuffer>, 64> buffers;  // by log2 of the capacity
};

TailPool::TailPool(TailMemory memory) : memory_(std::move(memory)), idle_(std::make_shared<Idle>()) {}

Result<TailBuffer> TailPool::take(size_t bytes) {
  const size_t capacity = std::bit_ceil(bytes < kMinCapacity ? kMinCapacity : bytes);
  const auto size_class = static_cast<size_t>(std::countr_zero(capacity));
  TailBuffer buffer;
  {
    std::lock_guard lock(idle_->mutex);
    auto& idle = idle_->buffers[size_class];
    if (!idle.empty()) {
      buffer = std::move(idle.back());
      idle.pop_back();
    }
  }
  if (!buffer) {
    Result<TailBuffer> made = memory_.allocate(capacity);
    if (made.has_error()) {
      if (!exhausted_.exchange(true))
        log_warn("tails_end", "reason=\"{}\" effect=\"rows of the GPU go through the host from now on\"",
                 made.error().message);
      return made.error();
    }
    buffer = std::move(*made);
  }
  ++num_taken_;
  std::byte* data = buffer.get();
  return TailBuffer(data, [idle = idle_, size_class, buffer](std::byte*) {
    std::lock_guard lock(idle->mutex);
    idle->buffers[size_class].push_back(buffer);
  });
}

}  // namespace guildhall
