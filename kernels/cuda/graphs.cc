#include "kernels/cuda/graphs.h"

#include "kernels/cuda/host_wait.h"

namespace guildhall {
namespace {

// Some tens of KiB each on the device. A model of 64 layers has this many when it meets 64 shapes of step;
// what comes after that runs without.
constexpr size_t kMaxRecords = 4096;

}  // namespace

void CudaGraphs::replay(const Ops::RecordKey& key, const std::function<void()>& body) {
  const auto found = executable_.find(key);
  if (found == executable_.end()) {
    if (executable_.size() < kMaxRecords) executable_.emplace(key, nullptr);
    return body();
  }
  if (found->second == nullptr) capture(body, &found->second);
  cuda_must(cudaGraphLaunch(found->second, stream_), "cudaGraphLaunch");
}

// Other threads go on with calls that a capture of theirs would not allow (a worker that loads experts).
void CudaGraphs::capture(const std::function<void()>& body, cudaGraphExec_t* executable) {
  cudaGraph_t graph = nullptr;
  cuda_must(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  {
    const GraphRecording recording;
    body();
  }
  cuda_must(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  cuda_must(cudaGraphInstantiate(executable, graph, 0), "cudaGraphInstantiate");
  cuda_must(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

void CudaGraphs::clear() {
  for (const auto& [key, executable] : executable_)
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  executable_.clear();
}

}  // namespace guildhall
