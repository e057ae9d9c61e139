// trace.h: what each thread was doing when, kept as the newest spans in memory and written as a Chrome trace
// (the "JSON Object Format" of the Trace Event Format document): one lane per thread, open it in Perfetto or
// chrome://tracing. Times are the monotonic clock's, so the files of processes on one host share one axis and
// can be merged. Any thread records; when no trace was started, a span costs one relaxed load.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/status.h"

namespace guildhall {

// What a span was about; negative: does not apply.
struct TraceArgs {
  int64_t step = -1, layer = -1, micro_batch = -1, tokens = -1;
};

struct TraceOptions {
  std::string file;        // where write_trace() puts it
  std::string process;     // shown as the process's name
  int64_t max_events = 0;  // kept; older ones are overwritten
};

// From here on spans are kept, in max_events * 64 bytes. Once per process, but again after stop_trace().
void start_trace(TraceOptions options);
// Writes what is kept now; recording goes on. Nothing to do without a trace. Errors name the file.
Result<void> write_trace();
void stop_trace();  // forgets everything

// The lane of the calling thread; without it "thread N". Before or after start_trace().
void name_trace_thread(std::string_view name);

// "traces/run.json" for process w0: "traces/run-w0.json".
std::string trace_file_of(const std::string& file, const std::string& process);

namespace trace_internal {
extern std::atomic<bool> on;
}
inline bool tracing() { return trace_internal::on.load(std::memory_order_relaxed); }

// `name` is a literal.
void record_span(const char* name, int64_t begin_ns, int64_t end_ns, const TraceArgs& args);

// A span from here to the end of the scope.
class TraceSpan {
 public:
  explicit TraceSpan(const char* name, const TraceArgs& args = {})
      : name_(name), args_(args), begin_ns_(tracing() ? now_ns() : 0) {}
  ~TraceSpan() {
    if (begin_ns_ != 0) record_span(name_, begin_ns_, now_ns(), args_);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  const char* name_;
  TraceArgs args_;
  int64_t begin_ns_;
};

}  // namespace guildhall
