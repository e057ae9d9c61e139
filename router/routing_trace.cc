#include "router/routing_trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"

namespace guildhall {
namespace {

// Steps that may wait to be written: of a large model (58 layers x 256 experts, all of them touched in both
// phases) 15 MB.
constexpr size_t kMaxQueued = 64;
constexpr size_t kMaxNameChars = 64;

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

bool fits_format(const TraceStep& step) {
  return step.prefill_tokens <= kMaxTraceTokens && step.decode_tokens <= kMaxTraceTokens &&
         step.prefill_tokens + step.decode_tokens > 0;
}

Status failed(const std::filesystem::path& file, int error) {
  if (error == EEXIST)
    return {Code::invalid_argument,
            fmt::format("{} exists already; choose another name", file.filename().string())};
  return {Code::unavailable, fmt::format("{} cannot be written: {}; see balance.trace.folder", file.string(),
                                         std::strerror(error))};
}

// A file that was not there before: a link that lies in the folder is not followed.
Result<std::ofstream> create(const std::filesystem::path& file) {
  std::error_code ignored;
  std::filesystem::create_directories(file.parent_path(), ignored);
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return failed(file, errno);
  ::close(descriptor);
  std::ofstream out(file, std::ios::binary);
  if (!out) return failed(file, errno);
  return out;
}

}  // namespace

std::string_view to_string(RoutingTraceStatus::State state) {
  using State = RoutingTraceStatus::State;
  switch (state) {
    case State::none:
      return "none";
    case State::recording:
      return "recording";
    case State::finished:
      return "finished";
    case State::full:
      return "full";
    case State::failed:
      return "failed";
  }
  return "unknown";
}

RoutingTrace::RoutingTrace(TraceHeader header, RoutingTraceOptions options)
    : header_(std::move(header)), options_(std::move(options)) {}

RoutingTrace::~RoutingTrace() { stop_thread(); }

Result<RoutingTraceStatus> RoutingTrace::start(const std::string& name) {
  if (options_.folder.empty())
    return Status{Code::unsupported, "no folder for routing traces is configured (balance.trace.folder)"};
  if (header_.moe_layers.empty())
    return Status{Code::unsupported, "the model has no layers with experts: there is nothing to record"};
  if (name.empty() || name.size() > kMaxNameChars || !std::ranges::all_of(name, is_name_char))
    return Status{Code::invalid_argument,
                  fmt::format("a trace's name has 1 to {} letters, digits, '_' and '-'", kMaxNameChars)};
  std::lock_guard starting(start_mutex_);
  if (is_recording())
    return Status{Code::invalid_argument,
                  fmt::format("{} is being recorded; stop that first", status().file)};
  stop_thread();
  const std::filesystem::path path = options_.folder / fmt::format("{}-{}.ghtr", name, options_.suffix);
  GH_ASSIGN(std::ofstream file, create(path));
  {
    std::lock_guard lock(mutex_);
    stopping_ = false;
    queue_.clear();
    begin_ns_ = now_ns();
    next_id_ = 0;
    status_ = {.state = State::recording, .file = path.string()};
  }
  is_recording_ = true;
  thread_ = std::thread([this, out = std::move(file)]() mutable { write(std::move(out)); });
  log_info("routing_trace_started", "file={} max_bytes={}", path.string(), options_.max_bytes);
  return status();
}

Result<RoutingTraceStatus> RoutingTrace::stop() {
  std::lock_guard starting(start_mutex_);
  stop_thread();
  RoutingTraceStatus status = this->status();
  if (status.state == State::none)
    return Status{Code::invalid_argument, "no routing trace is being recorded"};
  return status;
}

void RoutingTrace::stop_thread() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    is_recording_ = false;
  }
  has_work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void RoutingTrace::add(TraceStep step) {
  {
    std::lock_guard lock(mutex_);
    if (!is_recording()) return;
    step.step_id = next_id_++;
    step.time_us = static_cast<uint64_t>((now_ns() - begin_ns_) / 1000);
    if (queue_.size() == kMaxQueued || !fits_format(step)) {
      ++status_.num_dropped;
      return;
    }
    queue_.push_back(std::move(step));
  }
  has_work_.notify_one();
}

RoutingTraceStatus RoutingTrace::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

// ---- the writing thread ----

void RoutingTrace::write(std::ofstream file) {
  TraceWriter writer(file, header_);
  State state = State::finished;
  for (TraceStep step; take_step(step);) {
    if (writer.num_bytes() + TraceWriter::most_bytes(step) > static_cast<uint64_t>(options_.max_bytes)) {
      state = State::full;
      break;
    }
    writer.add(step);
    if (!file) break;
    std::lock_guard lock(mutex_);
    ++status_.num_steps;
    status_.num_bytes = static_cast<int64_t>(writer.num_bytes());
  }
  const Result<void> finished = writer.finish();
  file.close();
  {
    std::lock_guard lock(mutex_);
    status_.num_bytes = static_cast<int64_t>(writer.num_bytes());
  }
  if (finished.has_error() || !file)
    end(State::failed, finished.has_error() ? finished.error().message : "the file could not be closed");
  else
    end(state);
}

// The next step; false when no more are to be written.
bool RoutingTrace::take_step(TraceStep& step) {
  std::unique_lock lock(mutex_);
  has_work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
  if (queue_.empty()) return false;
  step = std::move(queue_.front());
  queue_.pop_front();
  return true;
}

void RoutingTrace::end(State state, std::string error) {
  RoutingTraceStatus status;
  {
    std::lock_guard lock(mutex_);
    is_recording_ = false;
    status_.num_dropped += static_cast<int64_t>(queue_.size());
    queue_.clear();
    status_.state = state;
    status_.error = std::move(error);
    status = status_;
  }
  log_info("routing_trace_ended", "file={} state={} steps={} dropped={} bytes={} error=\"{}\"", status.file,
           to_string(state), status.num_steps, status.num_dropped, status.num_bytes, status.error);
}

}  // namespace guildhall
