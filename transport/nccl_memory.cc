// nccl_memory.cc: see the header.
#include "transport/nccl_memory.h"

#include <fmt/format.h>

#include <cstdlib>

#include "transport/nccl_signal.h"

namespace guildhall {

Result<void> check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  return Status{error == cudaErrorMemoryAllocation ? Code::resource_exhausted : Code::internal,
                fmt::format("transport.kind nccl: {}: {}", call, cudaGetErrorString(error))};
}

Result<OwnedStream> make_stream() {
  cudaStream_t stream = nullptr;
  GH_TRY(check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  return OwnedStream(stream);
}

Result<OwnedEvent> make_event() {
  cudaEvent_t event = nullptr;
  GH_TRY(check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags"));
  return OwnedEvent(event);
}

Result<NcclMemory::Buffer> NcclMemory::take(size_t bytes) {
  const size_t capacity = bucket_bytes(bytes);
  auto& idle = idle_[capacity];
  if (idle.empty()) {
    GH_ASSIGN(void* made, make(capacity));
    idle.push_back(static_cast<std::byte*>(made));
  }
  std::byte* data = idle.back();
  idle.pop_back();
  return Buffer(data, GiveBack{this, capacity});
}

Result<void*> NcclMemory::make(size_t capacity) {
  void* data = nullptr;
  if (kind_ == MemoryKind::device) {
    if (!stream_) {
      GH_ASSIGN(stream_, make_stream());
    }
    GH_TRY(check_cuda(cudaMallocAsync(&data, capacity, stream_.get()), "cudaMallocAsync"));
    GH_TRY(check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize"));
    return data;
  }
  constexpr size_t kPage = 4096;
  data = std::aligned_alloc(kPage, (capacity + kPage - 1) / kPage * kPage);
  if (!data)
    return Status{Code::resource_exhausted, fmt::format("no memory for a frame of {} bytes", capacity)};
  const auto pinned =
      check_cuda(cudaHostRegister(data, capacity, cudaHostRegisterDefault), "cudaHostRegister");
  if (!pinned.has_error()) return data;
  std::free(data);
  return pinned.error();
}

NcclMemory::~NcclMemory() {
  for (auto& [capacity, idle] : idle_)
    for (std::byte* data : idle) {
      if (kind_ == MemoryKind::device) {
        cudaFreeAsync(data, stream_.get());
      } else {
        cudaHostUnregister(data);
        std::free(data);
      }
    }
  if (stream_) cudaStreamSynchronize(stream_.get());
}

}  // namespace guildhall
