// device.h: one GPU as this process uses it: its streams, and that the calling thread works on it. The host
// side of kernels/cuda; kernels know streams only. Any thread; made once per Ops and kept alive by every
// block of its memory.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "base/status.h"

namespace guildhall {

// "cudaStreamCreate: out of memory (cudaErrorMemoryAllocation)"
Status cuda_error(cudaError_t error, const char* call);
// A failure where none can be: a bug, or a device that is broken. Ends the process, naming the call.
void cuda_must(cudaError_t error, const char* call);

// Where a stream stood.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(cudaStream_t stream);
  void wait_on(cudaStream_t stream) const;  // `stream` goes on when the event has passed
  void wait(const char* what) const;        // the host does (host_wait.h)

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaDevice {
 public:
  // unsupported, saying what the machine has, when there is no such device or it is too old.
  static Result<std::shared_ptr<CudaDevice>> open(int index);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // What the calling thread does from here on is on this device.
  void make_current() const;
  const std::string& name() const { return name_; }  // "cuda:0 (NVIDIA H100)"

  cudaStream_t compute() const { return compute_; }              // kernels, in their order
  cudaStream_t communication() const { return communication_; }  // a step's rows, to and from the host
  cudaStream_t copy() const { return copy_; }                    // weights
  cudaStream_t memory() const { return memory_; }                // allocations and releases

 private:
  CudaDevice() = default;
  int index_ = 0;
  std::string name_;
  cudaStream_t compute_ = nullptr, communication_ = nullptr, copy_ = nullptr, memory_ = nullptr;
};

}  // namespace guildhall
