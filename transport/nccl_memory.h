// nccl_memory.h: streams, events, and pools of pinned and of device memory for frames on their way through
// NCCL.
//
// Pools keep what they made until they end. Nothing here waits for the whole device, as cudaMalloc and
// cudaFree may: an operation that waits for a dead peer keeps it busy. So device memory is made in the order
// of a stream that has nothing else, and pinned memory is the host's own, registered. Sizes are
// bucket_bytes'. One thread; a pool outlives its buffers.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"

namespace guildhall {

// {} or what CUDA said of `call`.
Result<void> check_cuda(cudaError_t error, const char* call);

struct CudaStreamDestroy {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct CudaEventDestroy {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, CudaStreamDestroy>;
using OwnedEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, CudaEventDestroy>;
Result<OwnedStream> make_stream();
Result<OwnedEvent> make_event();

enum class MemoryKind { pinned, device };

class NcclMemory {
 public:
  explicit NcclMemory(MemoryKind kind) : kind_(kind) {}
  NcclMemory(const NcclMemory&) = delete;
  ~NcclMemory();

  struct GiveBack {
    NcclMemory* pool = nullptr;
    size_t capacity = 0;
    void operator()(std::byte* data) const { pool->idle_[capacity].push_back(data); }
  };
  // Shared by those who still read it. At least `bytes` long.
  using Buffer = std::shared_ptr<std::byte>;
  Result<Buffer> take(size_t bytes);

 private:
  Result<void*> make(size_t capacity);

  const MemoryKind kind_;
  OwnedStream stream_;                              // device memory is made and freed in its order
  std::map<size_t, std::vector<std::byte*>> idle_;  // by capacity
};

}  // namespace guildhall
