// nccl_graphs.cc: see the header.
#include "transport/nccl_graphs.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace guildhall {
namespace {

// A hub's frames are of some seven sizes for each of its members, alone or all together. The least recently
// used of more goes; its memory is bounded with it.
constexpr size_t kMaxRecords = 64;
constexpr size_t kMaxSeen = 1024;

}  // namespace

NcclGraphs::Record::~Record() {
  if (executable != nullptr) cudaGraphExecDestroy(executable);
}

void NcclGraphs::turn_off(const std::string& why) {
  if (use_.most_bytes > 0)
    log_warn("nccl_graphs_off", "reason=\"{}\": NCCL's operations are launched one by one", why);
  use_.most_bytes = 0;
}

bool NcclGraphs::succeeded(cudaError_t error, const char* call) {
  if (error == cudaSuccess) [[likely]]
    return true;
  cudaGetLastError();  // told here; it is not the next call's
  turn_off(fmt::format("{}: {}", call, cudaGetErrorString(error)));
  return false;
}

void NcclGraphs::give_up() {
  if (recording_) turn_off("the communicator failed while its operations were recorded");
}

Result<std::shared_ptr<NcclGraphs::Record>> NcclGraphs::take(const Shape& shape, NcclMemory& memory) {
  const auto is_small = [&](const Operation& o) { return o.bytes <= use_.most_bytes; };
  if (use_.most_bytes == 0 || !std::ranges::all_of(shape, is_small)) return std::shared_ptr<Record>();
  auto found = records_.find(shape);
  if (found == records_.end()) {
    if (seen_.size() >= kMaxSeen) seen_.clear();
    if (seen_.insert(shape).second) return std::shared_ptr<Record>();
    make_room();
    auto record = std::make_shared<Record>();
    for (const Operation& operation : shape) {
      GH_ASSIGN(NcclMemory::Buffer staged, memory.take(operation.bytes));
      record->staged.push_back(std::move(staged));
    }
    found = records_.emplace(shape, std::move(record)).first;
  }
  Record& record = *found->second;
  if (record.in_use) return std::shared_ptr<Record>();
  record.in_use = true;
  record.last_use = ++num_uses_;
  return found->second;
}

void NcclGraphs::make_room() {
  if (records_.size() < kMaxRecords) return;
  const auto oldest = std::ranges::min_element(records_, {}, [](const auto& entry) {
    return entry.second->in_use ? UINT64_MAX : entry.second->last_use;
  });
  if (!oldest->second->in_use) records_.erase(oldest);
}

// Relaxed: what NCCL does beside, in a thread of its own too, is its own affair.
bool NcclGraphs::begin(cudaStream_t stream) {
  recording_ =
      succeeded(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  return recording_;
}

bool NcclGraphs::end(cudaStream_t stream, Record& record) {
  recording_ = false;
  cudaGraph_t graph = nullptr;
  if (!succeeded(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture")) return false;
  const bool made = succeeded(cudaGraphInstantiate(&record.executable, graph, 0), "cudaGraphInstantiate");
  if (!made) record.executable = nullptr;
  cudaGraphDestroy(graph);
  use_.recorded += made;
  return made;
}

bool NcclGraphs::launch(Record& record, cudaStream_t stream) {
  if (!succeeded(cudaGraphLaunch(record.executable, stream), "cudaGraphLaunch")) return false;
  ++use_.repeated;
  return true;
}

void NcclGraphs::abandon(cudaStream_t stream) {
  if (!recording_) return;
  recording_ = false;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

void NcclGraphs::clear() {
  records_.clear();
  seen_.clear();
}

}  // namespace guildhall
