#include "kernels/cuda/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/units.h"
#include "kernels/cuda/host_wait.h"

namespace guildhall {
namespace {

constexpr size_t kChunkBytes = 8 << 20;  // some hundred microseconds of PCIe: the calls' cost is lost in it

// The memory stream goes on after all that was enqueued on `stream` so far.
void follow(const CudaDevice& device, cudaStream_t stream) {
  CudaEvent reached;
  reached.record(stream);
  reached.wait_on(device.memory());
}

void release(const CudaDevice& device, std::byte* data) {
  GraphRecording::refuse("memory is given back");
  device.make_current();
  for (cudaStream_t user : {device.compute(), device.communication(), device.copy()}) follow(device, user);
  cuda_must(cudaFreeAsync(data, device.memory()), "cudaFreeAsync");
}

}  // namespace

CudaMemory::CudaMemory(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {
  device_->make_current();
  int index = 0;
  cudaMemPool_t pool = nullptr;
  uint64_t keep_all = UINT64_MAX;  // what is released serves the next allocation, not the system
  cuda_must(cudaGetDevice(&index), "cudaGetDevice");
  cuda_must(cudaDeviceGetDefaultMemPool(&pool, index), "cudaDeviceGetDefaultMemPool");
  cuda_must(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all),
            "cudaMemPoolSetAttribute(release threshold)");
}

Result<MemoryBlock> CudaMemory::allocate(int64_t bytes) {
  if (bytes == 0) return MemoryBlock{};
  const HostWait waiting("wait memory");
  device_->make_current();
  void* data = nullptr;
  cudaError_t error = cudaMallocAsync(&data, static_cast<size_t>(bytes), device_->memory());
  if (error == cudaSuccess) error = cudaStreamSynchronize(device_->memory());  // it is there for all streams
  if (error != cudaSuccess) return refusal(error, "cudaMallocAsync", bytes);
  return MemoryBlock(static_cast<std::byte*>(data),
                     [device = device_](std::byte* p) { release(*device, p); });
}

Result<MemoryBlock> CudaMemory::allocate_for_transfers(int64_t bytes) {
  if (bytes == 0) return MemoryBlock{};
  device_->make_current();
  void* data = nullptr;
  const HostWait waiting("wait memory");
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error != cudaSuccess) return refusal(error, "cudaMalloc", bytes);
  return MemoryBlock(static_cast<std::byte*>(data), [device = device_](std::byte* p) {
    const HostWait waiting("wait memory");
    device->make_current();
    cuda_must(cudaFree(p), "cudaFree");
  });
}

Status CudaMemory::refusal(cudaError_t error, const char* call, int64_t bytes) const {
  if (error != cudaErrorMemoryAllocation) return cuda_error(error, call);
  cudaGetLastError();  // told here; it is not the next call's
  const MemoryFigures has = figures();
  return {Code::resource_exhausted,
          fmt::format("{} has {} free of {}, {} are needed", name(), format_bytes(has.free_bytes),
                      format_bytes(has.total_bytes), format_bytes(bytes))};
}

Result<MemoryBlock> CudaMemory::allocate_pinned(int64_t bytes) {
  if (bytes == 0) return MemoryBlock{};
  const HostWait waiting("wait pinned memory");
  device_->make_current();
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocPortable);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return Status{Code::resource_exhausted, fmt::format("{} of pinned host memory: {}", format_bytes(bytes),
                                                        cudaGetErrorString(error))};
  }
  return MemoryBlock(static_cast<std::byte*>(data), [](std::byte* p) {
    const HostWait waiting("wait pinned memory");
    cudaFreeHost(p);
  });
}

Result<void> CudaMemory::make_chunks() {
  for (Chunk& chunk : chunk_i_) {
    if (chunk.data) continue;
    GH_ASSIGN(chunk.data, allocate_pinned(static_cast<int64_t>(kChunkBytes)));
    chunk.sent = std::make_unique<CudaEvent>();
  }
  return {};
}

Result<void> CudaMemory::upload(std::span<const std::byte> host, std::byte* device) {
  std::lock_guard lock(upload_mutex_);
  device_->make_current();
  GH_TRY(make_chunks());
  for (size_t done = 0, i = 0; done < host.size(); done += kChunkBytes, i ^= 1) {
    const size_t bytes = std::min(kChunkBytes, host.size() - done);
    chunk_i_[i].sent->wait("wait weights");  // what it held two rounds ago
    std::memcpy(chunk_i_[i].data.get(), host.data() + done, bytes);
    if (const cudaError_t e = cudaMemcpyAsync(device + done, chunk_i_[i].data.get(), bytes,
                                              cudaMemcpyHostToDevice, device_->copy());
        e != cudaSuccess)
      return cuda_error(e, "cudaMemcpyAsync(weights)");
    chunk_i_[i].sent->record(device_->copy());
  }
  const HostWait waiting("wait weights");
  const cudaError_t e = cudaStreamSynchronize(device_->copy());
  if (e != cudaSuccess) return cuda_error(e, "cudaStreamSynchronize(weights)");
  return {};
}

MemoryFigures CudaMemory::figures() const {
  device_->make_current();
  size_t free_bytes = 0, total_bytes = 0;
  cuda_must(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {.total_bytes = static_cast<int64_t>(total_bytes), .free_bytes = static_cast<int64_t>(free_bytes)};
}

}  // namespace guildhall
