#include "base/trace.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <vector>

namespace guildhall {

std::atomic<bool> trace_internal::on{false};

namespace {

struct Span {
  const char* name;
  int64_t begin_ns, end_ns;
  TraceArgs args;
  uint32_t thread;
};
static_assert(sizeof(Span) == 64);

struct Recorder {
  std::mutex mutex;  // guards everything; held for one copy per span
  TraceOptions options;
  std::vector<Span> spans;  // a ring once it is full
  uint64_t num_recorded = 0;
  std::vector<std::string> thread_names;  // by lane
};

Recorder& recorder() {
  static Recorder* const instance = new Recorder;  // threads may record until the very end
  return *instance;
}

thread_local uint32_t lane_of_thread = 0;  // 1-based; 0: none yet

uint32_t lane(Recorder& r) {  // r.mutex held
  if (lane_of_thread == 0) {
    r.thread_names.push_back(fmt::format("thread {}", r.thread_names.size() + 1));
    lane_of_thread = static_cast<uint32_t>(r.thread_names.size());
  }
  return lane_of_thread;
}

void append_metadata(std::string& out, const char* what, uint32_t thread, const std::string& name) {
  fmt::format_to(std::back_inserter(out),
                 R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":"{}"}}}})", what, getpid(),
                 thread, name);
}

// Microseconds with the nanoseconds kept.
std::string us(int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

void append_span(std::string& out, const Span& span) {
  auto at = std::back_inserter(out);
  fmt::format_to(at,
                 ",\n"
                 R"({{"ph":"X","name":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{)",
                 span.name, getpid(), span.thread, us(span.begin_ns), us(span.end_ns - span.begin_ns));
  const char* separator = "";
  const auto arg = [&](const char* name, int64_t value) {
    if (value < 0) return;
    fmt::format_to(at, R"({}"{}":{})", separator, name, value);
    separator = ",";
  };
  arg("step", span.args.step);
  arg("layer", span.args.layer);
  arg("micro_batch", span.args.micro_batch);
  arg("tokens", span.args.tokens);
  out += "}}";
}

std::string to_json(const TraceOptions& options, const std::vector<std::string>& thread_names,
                    const std::vector<Span>& spans, size_t oldest) {
  std::string out = R"({"displayTimeUnit":"ms","traceEvents":[)";
  append_metadata(out, "process_name", 0, options.process);
  for (size_t i = 0; i < thread_names.size(); ++i) {
    out += ",\n";
    append_metadata(out, "thread_name", static_cast<uint32_t>(i + 1), thread_names[i]);
  }
  for (size_t i = 0; i < spans.size(); ++i) append_span(out, spans[(oldest + i) % spans.size()]);
  return out + "]}\n";
}

}  // namespace

void start_trace(TraceOptions options) {
  Recorder& r = recorder();
  std::lock_guard lock(r.mutex);
  r.spans.clear();
  r.spans.reserve(static_cast<size_t>(options.max_events));
  r.num_recorded = 0;
  r.options = std::move(options);
  trace_internal::on = true;
}

void stop_trace() {
  trace_internal::on = false;
  Recorder& r = recorder();
  std::lock_guard lock(r.mutex);
  r.spans = {};
  r.options = {};
}

void name_trace_thread(std::string_view name) {
  Recorder& r = recorder();
  std::lock_guard lock(r.mutex);
  r.thread_names[lane(r) - 1] = name;
}

void record_span(const char* name, int64_t begin_ns, int64_t end_ns, const TraceArgs& args) {
  Recorder& r = recorder();
  std::lock_guard lock(r.mutex);
  const auto capacity = static_cast<uint64_t>(r.options.max_events);
  if (capacity == 0) return;  // stopped meanwhile
  const Span span{name, begin_ns, end_ns, args, lane(r)};
  if (r.spans.size() < capacity)
    r.spans.push_back(span);
  else
    r.spans[r.num_recorded % capacity] = span;
  ++r.num_recorded;
}

Result<void> write_trace() {
  if (!tracing()) return {};
  Recorder& r = recorder();
  std::vector<Span> spans;
  std::vector<std::string> thread_names;
  TraceOptions options;
  size_t oldest;
  {
    std::lock_guard lock(r.mutex);
    spans = r.spans;
    thread_names = r.thread_names;
    options = r.options;
    oldest = spans.empty() ? 0 : static_cast<size_t>(r.num_recorded % spans.size());
  }
  std::ofstream file(options.file, std::ios::binary | std::ios::trunc);
  file << to_json(options, thread_names, spans, oldest);
  file.close();
  if (file.fail())
    return Status{
        Code::unavailable,
        fmt::format("trace.file: cannot write {}; its folder must exist and be writable", options.file)};
  return {};
}

std::string trace_file_of(const std::string& file, const std::string& process) {
  const std::filesystem::path path(file);
  const std::string name = path.stem().string() + "-" + process + path.extension().string();
  return (path.parent_path() / name).string();
}

}  // namespace guildhall
