// routing_trace.h: writes a routing trace (proto/TRACE.md) on demand, beside the engine: steps go through a
// bounded queue to a thread that writes them. Where it does not keep up, or a step is beyond the format's
// bounds, the step is left out and counted, and its id is missing in the file. At max_bytes the file is
// finished.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/status.h"
#include "router/balance/trace_file.h"

namespace guildhall {

struct RoutingTraceOptions {
  std::filesystem::path folder;  // empty: nothing can be recorded
  int64_t max_bytes = 0;
  std::string suffix;  // of file names: NAME-SUFFIX.ghtr
};

// Of the recording under way, or the last one.
struct RoutingTraceStatus {
  enum class State { none, recording, finished, full, failed } state = State::none;
  std::string file;
  int64_t num_steps = 0, num_dropped = 0, num_bytes = 0;
  std::string error;  // of a failed one
};
std::string_view to_string(RoutingTraceStatus::State state);

// Any thread.
class RoutingTrace {
 public:
  RoutingTrace(TraceHeader header, RoutingTraceOptions options);
  ~RoutingTrace();  // finishes what is being recorded

  // Records to a new file of the folder. Errors: not configured, a name that is none, one that is taken,
  // a recording under way, a folder that cannot be written to.
  Result<RoutingTraceStatus> start(const std::string& name);
  // Returns when the file is whole; of a recording that has ended already, what came of it. An error when
  // there was none.
  Result<RoutingTraceStatus> stop();

  bool is_recording() const { return is_recording_.load(std::memory_order_relaxed); }
  void add(TraceStep step);  // does not wait for the file
  RoutingTraceStatus status() const;

 private:
  using State = RoutingTraceStatus::State;

  void write(std::ofstream file);
  bool take_step(TraceStep& step);
  void end(State state, std::string error = {});
  void stop_thread();

  const TraceHeader header_;
  const RoutingTraceOptions options_;
  std::mutex start_mutex_;  // held by start() and stop(): one at a time. Guards thread_
  std::thread thread_;
  std::atomic<bool> is_recording_{false};
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable has_work_;
  std::deque<TraceStep> queue_;
  bool stopping_ = false;
  int64_t begin_ns_ = 0;
  uint64_t next_id_ = 0;
  RoutingTraceStatus status_;
};

}  // namespace guildhall
