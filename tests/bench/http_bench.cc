// http_bench.cc: what the HTTP side costs, with an engine whose tokens are free. A server process (engine
// thread and HTTP thread on one core) streams to a client process on another: tokens delivered per second and
// the time from the engine's token to the client's read, at several rates; then the memory that idle
// connections take.
//   http_bench [--streams N] [--rates 30000,60000] [--seconds N] [--idle N]
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "tests/bench/http_streams.h"
#include "tests/bench/pin.h"

namespace guildhall {
namespace {

struct BenchOptions {
  int streams = 64, seconds = 5, idle = 10'000;
  std::vector<int64_t> rates{30'000, 60'000, 120'000, 240'000};
};

constexpr int64_t kMaxTokens = 1 << 17;  // of a stream
constexpr int kMaxStreams = 256;

// What both processes see.
struct Shared {
  std::atomic<int> port{0};
  std::atomic<int64_t> rate{0};  // tokens per second over all streams; 0: the engine pauses
  std::atomic<bool> ending{false};
  int64_t made_ns[kMaxStreams][kMaxTokens];  // when each token of each stream was made
};

// Makes one token of every stream per step; a stream is told apart by its seed.
class FreeEngine final : public EngineClient {
 public:
  FreeEngine(Shared& shared, int32_t token) : shared_(shared), token_(token) {}

  Result<RequestId> submit(EngineRequest request, EventSink sink) override {
    const std::lock_guard lock(mutex_);
    streams_[++last_id_] = {std::move(sink), request.seed, 0};
    return last_id_;
  }
  void cancel(RequestId id) override {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    found->second.sink(EngineEvent{.finish = FinishReason::cancelled});
    streams_.erase(found);
  }
  EngineCounters counters() const override { return {}; }

  void run() {
    int64_t next_ns = now_ns();
    while (!shared_.ending) {
      const int64_t rate = shared_.rate;
      if (rate == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        next_ns = now_ns();
        continue;
      }
      const size_t made = step();
      next_ns += static_cast<int64_t>(made) * 1'000'000'000 / rate;
      if (const int64_t left = next_ns - now_ns(); left > 0)
        std::this_thread::sleep_for(std::chrono::nanoseconds(left));
    }
  }

 private:
  struct Stream {
    EventSink sink;
    uint64_t idx = 0;
    int64_t num_tokens = 0;
  };
  size_t step() {
    const std::lock_guard lock(mutex_);
    for (auto& [id, stream] : streams_) {
      if (stream.num_tokens == kMaxTokens) continue;
      shared_.made_ns[stream.idx][stream.num_tokens++] = now_ns();
      EngineEvent event;
      event.tokens.push_back(token_);
      stream.sink(std::move(event));
    }
    return streams_.size();
  }

  Shared& shared_;
  const int32_t token_;
  std::mutex mutex_;
  std::map<RequestId, Stream> streams_;
  RequestId last_id_ = 0;
};

void serve(Shared& shared) {
  pin_to_core(0);
  const auto tokenizer =
      Tokenizer::load(std::filesystem::path(GUILDHALL_SOURCE_DIR) / "deploy/demo-model").value();
  const std::vector<int32_t> ids = tokenizer->encode("a", EncodeOptions{.add_special_tokens = false});
  GH_CHECK(ids.size() == 1);
  FreeEngine engine(shared, ids[0]);
  Ready ready;
  auto server = HttpServer::start({.listen = "127.0.0.1:0",
                                   .num_threads = 1,
                                   .max_connections = 20'000,
                                   .idle_timeout = std::chrono::minutes(10),
                                   .model_name = "free",
                                   .max_model_len = 1 << 20},
                                  ready)
                    .value();
  server->attach(engine, *tokenizer);
  shared.port = server->port();
  engine.run();
  server->stop(std::chrono::milliseconds(0));
}

// ---- the client

struct Stream {
  int fd;
  std::string unread;
  int64_t num_tokens = 0;

  // The tokens of the pieces that came whole: each is one character of a "text".
  int64_t take_tokens() {
    constexpr std::string_view kBegin = "\"text\":\"";
    int64_t taken = 0;
    size_t done = 0;
    for (;;) {
      const size_t begin = unread.find(kBegin, done);
      if (begin == std::string::npos) break;
      const size_t end = unread.find('"', begin + kBegin.size());
      if (end == std::string::npos) break;
      taken += static_cast<int64_t>(end - begin - kBegin.size());
      done = end;
    }
    unread.erase(0, done);
    return taken;
  }
};

std::vector<Stream> open_streams(int port, int count) {
  std::vector<Stream> streams;
  for (int i = 0; i < count; ++i) {
    streams.push_back({connect_to(port), {}});
    const std::string body =
        fmt::format(R"({{"prompt":"x","max_tokens":1000000,"stream":true,"seed":{}}})", i);
    send_request(streams.back().fd, "/v1/completions", body);
  }
  return streams;
}

double processor_seconds(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string word;
  double ticks = 0;
  for (int i = 1; i <= 15 && stat >> word; ++i)
    if (i >= 14) ticks += std::stod(word);
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t resident_bytes(pid_t pid) {
  std::ifstream statm(fmt::format("/proc/{}/statm", pid));
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void measure_rate(Shared& shared, pid_t server, const BenchOptions& options, int64_t rate) {
  std::vector<Stream> streams = open_streams(shared.port, options.streams);
  std::vector<pollfd> polls;
  for (const Stream& s : streams) polls.push_back({s.fd, POLLIN, 0});
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // all are submitted
  std::vector<double> late_ms;
  std::vector<char> buffer(1 << 18);
  int64_t delivered = 0, reads = 0;
  const double cpu_before = processor_seconds(server);
  const int64_t begin = now_ns(), end = begin + int64_t{options.seconds} * 1'000'000'000;
  shared.rate = rate;
  while (now_ns() < end) {
    if (poll(polls.data(), polls.size(), 10) <= 0) continue;
    for (size_t i = 0; i < streams.size(); ++i) {
      if ((polls[i].revents & POLLIN) == 0) continue;
      Stream& s = streams[i];
      const ssize_t count = read(s.fd, buffer.data(), buffer.size());
      GH_CHECK(count > 0);
      const int64_t now = now_ns();
      s.unread.append(buffer.data(), static_cast<size_t>(count));
      ++reads;
      for (int64_t n = s.take_tokens(); n > 0; --n, ++delivered)
        late_ms.push_back(static_cast<double>(now - shared.made_ns[i][s.num_tokens++]) * 1e-6);
    }
  }
  const double seconds = static_cast<double>(now_ns() - begin) * 1e-9;
  const double cpu = (processor_seconds(server) - cpu_before) / seconds;
  shared.rate = 0;
  for (const Stream& s : streams) close(s.fd);
  std::ranges::sort(late_ms);
  const auto at = [&](double share) {
    return late_ms.empty() ? 0.0
                           : late_ms[static_cast<size_t>(share * static_cast<double>(late_ms.size() - 1))];
  };
  fmt::print("{:>9} {:>11.0f} {:>9.1f}% {:>10.2f} {:>9.2f} {:>9.2f} {:>13.2f}\n", rate,
             static_cast<double>(delivered) / seconds, 100 * cpu, at(0.5), at(0.99), at(0.999),
             static_cast<double>(delivered) / static_cast<double>(std::max<int64_t>(reads, 1)));
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the server sees that they are gone
}

void measure_idle(Shared& shared, pid_t server, int count) {
  const int64_t before = resident_bytes(server);
  std::vector<int> idle;
  for (int i = 0; i < count; ++i) {
    idle.push_back(connect_to(shared.port));
    // Each has had a request answered, as a client's kept-alive connection.
    constexpr std::string_view kRequest = "GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
    GH_CHECK(write(idle.back(), kRequest.data(), kRequest.size()) == static_cast<ssize_t>(kRequest.size()));
    char reply[1024];
    GH_CHECK(read(idle.back(), reply, sizeof reply) > 0);
  }
  const int64_t after = resident_bytes(server);
  fmt::print("{} idle connections: {} of the server's memory ({} each), {} in all\n", count,
             format_bytes(after - before), format_bytes((after - before) / count), format_bytes(after));
  for (int fd : idle) close(fd);
}

int main_with(const BenchOptions& options) {
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  GH_CHECK(memory != MAP_FAILED);
  auto& shared = *new (memory) Shared;
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const pid_t server = fork();
  GH_CHECK(server >= 0);
  if (server == 0) {
    init_log("http_bench", "error");
    serve(shared);
    _exit(0);
  }
  pin_to_core(1);
  while (shared.port == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  fmt::print("{} streams, engine and HTTP threads on one core, {} s each\n", options.streams,
             options.seconds);
  fmt::print("{:>9} {:>11} {:>10} {:>10} {:>9} {:>9} {:>13}\n", "asked t/s", "delivered", "of a core",
             "p50 ms", "p99 ms", "p99.9 ms", "tokens a read");
  for (const int64_t rate : options.rates) measure_rate(shared, server, options, rate);
  if (options.idle > 0) measure_idle(shared, server, options.idle);
  shared.ending = true;
  int status = 0;
  waitpid(server, &status, 0);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options;
  CLI::App app("HTTP streaming with an engine whose tokens are free", "http_bench");
  app.add_option("--streams", options.streams)->check(CLI::Range(1, guildhall::kMaxStreams));
  app.add_option("--rates", options.rates, "Tokens per second over all streams")->delimiter(',');
  app.add_option("--seconds", options.seconds)->check(CLI::Range(1, 30));
  app.add_option("--idle", options.idle, "Idle connections; needs that many file descriptors");
  CLI11_PARSE(app, argc, argv);
  return guildhall::main_with(options);
}
