// host_wait.h: where the host waits for a GPU, and while it must not. Every place that waits says so with a
// HostWait: it is counted, and a span of the trace. While a thread records a graph it may neither wait nor
// allocate: the graph would keep addresses that are gone when it runs. Any thread.
#pragma once

#include <cstdint>

#include "base/trace.h"

namespace guildhall {

// The host waits until the end of the scope, for `what`: a literal that begins with "wait ".
class HostWait {
 public:
  explicit HostWait(const char* what);
  HostWait(const HostWait&) = delete;
  HostWait& operator=(const HostWait&) = delete;

  static uint64_t num_so_far();  // of this process

 private:
  TraceSpan span_;
};

// This thread records a graph until the end of the scope.
class GraphRecording {
 public:
  GraphRecording();
  ~GraphRecording();
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  // Ends the process, naming `what`, if this thread records: run the work once before it is recorded, as
  // CudaGraphs does, or reserve what it needs.
  static void refuse(const char* what);
};

}  // namespace guildhall
