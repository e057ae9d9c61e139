// graphs.h: what a stream was told, recorded once and repeated as one launch. The first time a key is seen
// its work runs as it comes, so that workspaces grow and modules load; the second time it is captured into a
// CUDA graph; from then on the graph is launched. Owner: the Ops' thread.
#pragma once

#include <functional>
#include <map>

#include "kernels/cuda/device.h"
#include "kernels/ops.h"

namespace guildhall {

class CudaGraphs {
 public:
  explicit CudaGraphs(cudaStream_t stream) : stream_(stream) {}
  ~CudaGraphs() { clear(); }
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  void replay(const Ops::RecordKey& key, const std::function<void()>& body);
  // Forgets all records: addresses they hold are no longer valid.
  void clear();

 private:
  void capture(const std::function<void()>& body, cudaGraphExec_t* executable);

  cudaStream_t stream_;
  std::map<Ops::RecordKey, cudaGraphExec_t> executable_;  // null: seen once
};

}  // namespace guildhall
