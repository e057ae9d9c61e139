// memory.h: a GPU's memory, and pinned memory of the host. Blocks come from the device's stream-ordered pool,
// which keeps what is returned to it: a release waits for the kernels that use the block, the host does not.
#pragma once

#include <memory>
#include <mutex>

#include "kernels/cuda/device.h"
#include "kernels/device_memory.h"

namespace guildhall {

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(std::shared_ptr<CudaDevice> device);

  std::string name() const override { return device_->name(); }
  bool is_host() const override { return false; }
  Result<MemoryBlock> allocate(int64_t bytes) override;
  // Not of the pool, whose memory network cards cannot register: by cudaMalloc, which may wait for the device.
  Result<MemoryBlock> allocate_for_transfers(int64_t bytes) override;
  Result<MemoryBlock> allocate_pinned(int64_t bytes) override;
  Result<void> upload(std::span<const std::byte> host, std::byte* device) override;
  MemoryFigures figures() const override;

 private:
  // One of two pinned chunks that a large upload goes through: one is filled while the other is sent.
  struct Chunk {
    MemoryBlock data;
    std::unique_ptr<CudaEvent> sent;
  };
  Result<void> make_chunks();
  Status refusal(cudaError_t error, const char* call, int64_t bytes) const;

  std::shared_ptr<CudaDevice> device_;
  std::mutex upload_mutex_;  // guards chunk_i_
  Chunk chunk_i_[2];
};

}  // namespace guildhall
