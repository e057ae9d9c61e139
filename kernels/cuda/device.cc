#include "kernels/cuda/device.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/host_wait.h"

namespace guildhall {
namespace {

constexpr int kLeastMajor = 8;  // bf16 tensor cores: what the kernels are built for

Status no_device(int index, const std::string& why) {
  return {Code::unsupported, fmt::format("cuda:{}: {}; use cpu", index, why)};
}

}  // namespace

Status cuda_error(cudaError_t error, const char* call) {
  const Code code = error == cudaErrorMemoryAllocation ? Code::resource_exhausted : Code::internal;
  return {code, fmt::format("{}: {} ({})", call, cudaGetErrorString(error), cudaGetErrorName(error))};
}

void cuda_must(cudaError_t error, const char* call) {
  if (error == cudaSuccess) [[likely]]
    return;
  std::fprintf(stderr, "%s\n", cuda_error(error, call).message.c_str());
  std::abort();
}

CudaEvent::CudaEvent() {
  cuda_must(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
}
CudaEvent::~CudaEvent() { cudaEventDestroy(event_); }
void CudaEvent::record(cudaStream_t stream) { cuda_must(cudaEventRecord(event_, stream), "cudaEventRecord"); }
void CudaEvent::wait_on(cudaStream_t stream) const {
  cuda_must(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
}
void CudaEvent::wait(const char* what) const {
  const HostWait waiting(what);
  cuda_must(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

Result<std::shared_ptr<CudaDevice>> CudaDevice::open(int index) {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess) {
    cudaGetLastError();  // it is not the next call's
    return no_device(index, fmt::format("this machine has no CUDA device ({})", cudaGetErrorString(counted)));
  }
  if (index >= count) return no_device(index, fmt::format("this machine has {} CUDA devices", count));
  cudaDeviceProp properties{};
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, index); e != cudaSuccess)
    return cuda_error(e, "cudaGetDeviceProperties");
  if (properties.major < kLeastMajor)
    return no_device(index, fmt::format("{} is of compute capability {}.{}, and 8.0 is the least",
                                        properties.name, properties.major, properties.minor));
  std::shared_ptr<CudaDevice> device(new CudaDevice());
  device->index_ = index;
  device->name_ = fmt::format("cuda:{} ({})", index, properties.name);
  if (const cudaError_t e = cudaSetDevice(index); e != cudaSuccess) return cuda_error(e, "cudaSetDevice");
  for (cudaStream_t* stream : {&device->compute_, &device->communication_, &device->copy_, &device->memory_})
    if (const cudaError_t e = cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking); e != cudaSuccess)
      return cuda_error(e, "cudaStreamCreate");
  return device;
}

CudaDevice::~CudaDevice() {
  make_current();
  for (cudaStream_t stream : {compute_, communication_, copy_, memory_})
    if (stream != nullptr) cudaStreamDestroy(stream);
}

void CudaDevice::make_current() const {
  thread_local int current = -1;
  if (current == index_) return;
  cuda_must(cudaSetDevice(index_), "cudaSetDevice");
  current = index_;
}

}  // namespace guildhall
