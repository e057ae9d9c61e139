// counting_memory.h: the host's memory, which knows how much of it is in use.
#pragma once

#include <atomic>

#include "kernels/device_memory.h"

namespace guildhall {

class CountingMemory final : public DeviceMemory {
 public:
  std::string name() const override { return "counted"; }
  bool is_host() const override { return true; }
  Result<MemoryBlock> allocate(int64_t bytes) override {
    GH_ASSIGN(MemoryBlock block, host_memory().allocate(bytes));
    in_use_->fetch_add(bytes);
    auto free = block.get_deleter();
    return MemoryBlock(block.release(), [bytes, free, in_use = in_use_](std::byte* p) {
      free(p);
      in_use->fetch_sub(bytes);
    });
  }
  Result<MemoryBlock> allocate_pinned(int64_t bytes) override { return allocate(bytes); }
  Result<void> upload(std::span<const std::byte> host, std::byte* device) override {
    return host_memory().upload(host, device);
  }
  MemoryFigures figures() const override { return host_memory().figures(); }

  int64_t in_use() const { return *in_use_; }

 private:
  std::shared_ptr<std::atomic<int64_t>> in_use_ = std::make_shared<std::atomic<int64_t>>(0);
};

}  // namespace guildhall
