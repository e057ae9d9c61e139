// cuda_runtime.cc: the runtime's functions of include/cuda_runtime.h.
#include "tests/emulation/include/cuda_runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "tests/emulation/device_memory.h"
#include "tests/emulation/streams.h"

namespace emulation = guildhall::emulation;
using Held = std::lock_guard<std::recursive_mutex>;

namespace {

thread_local cudaError_t last_error = cudaSuccess;
std::atomic<uint64_t> num_waits{0};
std::atomic<int> compute_major = 9, compute_minor = 0;

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// Waiting for a stream that is being captured is an error.
bool capturing(cudaStream_t stream) { return emulation::is_capturing(stream); }

}  // namespace

uint64_t guildhall::emulation::num_host_waits() { return num_waits; }

void guildhall::emulation::set_compute_capability(int major, int minor) {
  compute_major = major;
  compute_minor = minor;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// --- Devices

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return note(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return note(cudaErrorInvalidDevice);
  *properties = {
      "emulated", emulation::kDeviceBytes, 48 << 10, 227 << 10, compute_major, compute_minor, 4, 32, 1 << 20};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const auto error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  ++num_waits;
  return emulation::run_until(emulation::all_idle), cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }

// --- Memory

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const Held held(emulation::lock());
  *total_bytes = emulation::kDeviceBytes;
  *free_bytes = emulation::kDeviceBytes - emulation::device_bytes_used();
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  ++num_waits;
  return cudaMallocAsync(data, bytes, nullptr);
}
cudaError_t cudaFree(void* data) {
  if (!data) return cudaSuccess;
  cudaDeviceSynchronize();
  const Held held(emulation::lock());
  emulation::free_device(data);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  const Held held(emulation::lock());
  if (capturing(stream)) return note(cudaErrorStreamCaptureUnsupported);
  *data = emulation::allocate_device(bytes);
  return note(*data ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const Held held(emulation::lock());
  if (capturing(stream)) return note(cudaErrorStreamCaptureUnsupported);
  if (data) emulation::enqueue(stream, [data] { return emulation::free_device(data), true; });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  ++num_waits;
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return note(*data ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return cudaMallocHost(data, bytes); }
cudaError_t cudaFreeHost(void* data) {
  cudaDeviceSynchronize();
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return ++num_waits, cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return ++num_waits, cudaSuccess; }

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  emulation::enqueue(stream, [=] { return std::memcpy(to, from, bytes), true; });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return note(cudaErrorInvalidValue);
  emulation::enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
    return true;
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  cudaMemsetAsync(data, value, bytes, nullptr);
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (bytes > 0) emulation::enqueue(stream, [=] { return std::memset(data, value, bytes), true; });
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

// --- Streams

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const Held held(emulation::lock());
  emulation::add_stream(*stream = new CUstream_st);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulation::run_until([stream] { return stream->pending.empty(); });
  const Held held(emulation::lock());
  emulation::remove_stream(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream = emulation::stream_or_default(stream);
  if (Held held(emulation::lock()); stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  ++num_waits;
  emulation::run_until([stream] { return stream->pending.empty(); });
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Held held(emulation::lock());
  stream = emulation::stream_or_default(stream);
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  emulation::run_some();
  return stream->pending.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Held held(emulation::lock());
  if (event->capture) {  // the stream joins the capture that recorded the event
    stream = emulation::stream_or_default(stream);
    stream->capture = event->capture;
    stream->capture->streams.insert(stream);
    return cudaSuccess;
  }
  emulation::enqueue(
      stream, [records = event->records, wanted = event->records->asked] { return records->done >= wanted; });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  emulation::enqueue(stream, [=] { return function(argument), true; });
  return cudaSuccess;
}

// --- Events

cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new CUevent_st, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Held held(emulation::lock());
  event->capture = emulation::stream_or_default(stream)->capture;
  if (event->capture) return cudaSuccess;
  emulation::enqueue(stream, [records = event->records, mine = ++event->records->asked] {
    return records->done = std::max(records->done, mine), true;
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Held held(emulation::lock());
  if (event->capture) return note(cudaErrorStreamCaptureUnsupported);
  emulation::run_some();
  return event->records->done >= event->records->asked ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (Held held(emulation::lock()); event->capture) return note(cudaErrorStreamCaptureUnsupported);
  ++num_waits;
  emulation::run_until([event] { return event->records->done >= event->records->asked; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 0.001f, cudaSuccess;  // time here says nothing about a device's
}

// --- Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Held held(emulation::lock());
  stream = emulation::stream_or_default(stream);
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  stream->capture = new CUgraph_st;
  stream->capture->streams.insert(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Held held(emulation::lock());
  stream = emulation::stream_or_default(stream);
  if (!stream->capture) return note(cudaErrorInvalidValue);
  *graph = stream->capture;
  for (cudaStream_t one : (*graph)->streams) one->capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Held held(emulation::lock());
  *status = capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  if (emulation::graphs_refused()) return note(cudaErrorMemoryAllocation);
  return *executable = new CUgraphExec_st{graph->operations}, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Held held(emulation::lock());
  for (const auto& make : executable->operations) emulation::enqueue_made(stream, make);
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
