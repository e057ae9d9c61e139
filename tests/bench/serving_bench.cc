// serving_bench.cc: what is left of the engine's decode rate once its tokens go to clients. One process has
// the engine and the HTTP server, its child is all the clients. In turns the same requests go to the engine
// directly (offline) and over HTTP as streams (served). A rate is that of decoding: two runs that differ in
// nothing but the tokens they decode, so that prompts and connections cancel out.
//   serving_bench [MODEL_DIR] [--threads N] [--clients N] [--prompt N] [--tokens N] [--rounds N]
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/bench/http_streams.h"
#include "tests/bench/made_up_prompt.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct BenchOptions {
  std::filesystem::path model = std::filesystem::path(GUILDHALL_SOURCE_DIR) / "deploy/demo-model";
  int threads = 2, clients = 32, rounds = 5;
  int32_t prompt = 32, tokens = 256;
};

// What the clients are told to do, and what they say of it.
struct Job {
  int32_t port = 0, max_tokens = 0;  // port 0: the end
};
struct Report {
  double seconds = 0, processor_seconds = 0;
  int64_t reads = 0;
};

// The difference of two runs, of which the second decodes more tokens.
Report operator-(const Report& whole, const Report& prompts) {
  return {whole.seconds - prompts.seconds, whole.processor_seconds - prompts.processor_seconds,
          whole.reads - prompts.reads};
}

template <class T>
void send_struct(int fd, const T& value) {
  GH_CHECK(write(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value));
}
template <class T>
T receive_struct(int fd) {
  T value;
  GH_CHECK(read(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value));
  return value;
}

double own_processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// ---- the clients' process

// One stream on each connection, until all have ended.
Report run_streams(const std::vector<int>& fds, const BenchOptions& options, int64_t vocab_size,
                   int32_t max_tokens) {
  constexpr std::string_view kEnd = "data: [DONE]\n\n\r\n0\r\n\r\n";
  std::vector<std::string> last(fds.size());  // the end of what came on each
  std::vector<pollfd> polls;
  std::vector<char> buffer(1 << 16);
  Report report;
  const double processor_before = own_processor_seconds();
  const int64_t begin = now_ns();
  for (size_t i = 0; i < fds.size(); ++i) {
    const std::string body = fmt::format(
        R"({{"prompt":[{}],"max_tokens":{},"temperature":0,"ignore_eos":true,"stream":true}})",
        fmt::join(made_up_prompt(vocab_size, options.prompt, static_cast<int64_t>(i)), ","), max_tokens);
    send_request(fds[i], "/v1/completions", body);
    polls.push_back({fds[i], POLLIN, 0});
  }
  for (size_t running = fds.size(); running > 0;) {
    GH_CHECK(poll(polls.data(), polls.size(), -1) > 0);
    for (size_t i = 0; i < fds.size(); ++i) {
      if ((polls[i].revents & POLLIN) == 0) continue;
      const ssize_t count = read(fds[i], buffer.data(), buffer.size());
      GH_CHECK(count > 0);
      ++report.reads;
      last[i].append(buffer.data(), static_cast<size_t>(count));
      if (last[i].size() > kEnd.size()) last[i].erase(0, last[i].size() - kEnd.size());
      if (last[i] != kEnd) continue;
      polls[i].fd = -1;
      --running;
    }
  }
  report.seconds = static_cast<double>(now_ns() - begin) * 1e-9;
  report.processor_seconds = own_processor_seconds() - processor_before;
  return report;
}

[[noreturn]] void be_clients(const BenchOptions& options, int64_t vocab_size, int jobs, int reports) {
  std::vector<int> fds;
  for (;;) {
    const auto job = receive_struct<Job>(jobs);
    if (job.port == 0) _exit(0);
    while (fds.size() < static_cast<size_t>(options.clients)) fds.push_back(connect_to(job.port));
    send_struct(reports, run_streams(fds, options, vocab_size, job.max_tokens));
  }
}

class Clients {
 public:
  // Before this process has threads.
  Clients(const BenchOptions& options, int64_t vocab_size) {
    int jobs[2], reports[2];
    GH_CHECK(pipe(jobs) == 0 && pipe(reports) == 0);
    pid_ = fork();
    GH_CHECK(pid_ >= 0);
    if (pid_ == 0) be_clients(options, vocab_size, jobs[0], reports[1]);
    jobs_ = jobs[1], reports_ = reports[0];
  }
  ~Clients() {
    send_struct(jobs_, Job{});
    waitpid(pid_, nullptr, 0);
  }
  Report run(int port, int32_t max_tokens) {
    send_struct(jobs_, Job{port, max_tokens});
    return receive_struct<Report>(reports_);
  }

 private:
  pid_t pid_ = 0;
  int jobs_ = 0, reports_ = 0;
};

// ---- the engine's and server's process

Report run_offline(LocalEngine& engine, const BenchOptions& options, int32_t max_tokens) {
  std::vector<std::future<Completion>> pending;
  const double processor_before = own_processor_seconds();
  const int64_t begin = now_ns();
  for (int i = 0; i < options.clients; ++i) {
    EngineRequest request;
    request.prompt_ids = made_up_prompt(engine.spec().vocab_size, options.prompt, i);
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    pending.push_back(engine.submit(std::move(request)));
  }
  for (auto& p : pending) p.get();
  return {static_cast<double>(now_ns() - begin) * 1e-9, own_processor_seconds() - processor_before};
}

// Also what this process took for it.
struct Served {
  Report clients;
  double processor_seconds = 0;
};
Served run_served(Clients& clients, int port, int32_t max_tokens) {
  const double processor_before = own_processor_seconds();
  const Report report = clients.run(port, max_tokens);
  return {report, own_processor_seconds() - processor_before};
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double load_average() {
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  return load;
}

void measure(LocalEngine& engine, Clients& clients, int port, const BenchOptions& options) {
  fmt::print("{}: {} compute threads, {} at once, prompts of {}, {} tokens decoded\n",
             options.model.filename().string(), options.threads, options.clients, options.prompt,
             options.tokens);
  fmt::print("{:>6} {:>12} {:>12} {:>7} {:>14} {:>28} {:>6}\n", "", "", "", "", "", "processor, us a token",
             "");
  fmt::print("{:>6} {:>12} {:>12} {:>7} {:>14} {:>9} {:>8} {:>9} {:>6}\n", "round", "offline t/s",
             "served t/s", "share", "tokens a read", "engine", "HTTP", "clients", "load");
  const double decoded = static_cast<double>(options.clients) * options.tokens;
  std::vector<double> offline, served, share;
  for (int round = 0; round <= options.rounds; ++round) {
    const Report alone_prompts = run_offline(engine, options, 1);
    const Report alone = run_offline(engine, options, options.tokens + 1) - alone_prompts;
    const Served prompts = run_served(clients, port, 1);
    const Served whole = run_served(clients, port, options.tokens + 1);
    const Report seen = whole.clients - prompts.clients;
    const double processor = whole.processor_seconds - prompts.processor_seconds;
    if (round == 0) continue;  // warm
    offline.push_back(decoded / alone.seconds);
    served.push_back(decoded / seen.seconds);
    share.push_back(served.back() / offline.back());
    fmt::print("{:>6} {:>12.0f} {:>12.0f} {:>6.1f}% {:>14.2f} {:>9.1f} {:>8.1f} {:>9.1f} {:>6.1f}\n", round,
               offline.back(), served.back(), 100 * share.back(), decoded / static_cast<double>(seen.reads),
               1e6 * alone.processor_seconds / decoded, 1e6 * (processor - alone.processor_seconds) / decoded,
               1e6 * seen.processor_seconds / decoded, load_average());
    std::fflush(stdout);
  }
  fmt::print("{:>6} {:>12.0f} {:>12.0f} {:>6.1f}%\n", "median", median(offline), median(served),
             100 * median(share));
}

int main_with(const BenchOptions& options) {
  Clients clients(options, read_model_spec(options.model).value().vocab_size);
  init_log("serving_bench", "error");
  const bool has_weights = std::filesystem::exists(options.model / "model.safetensors");
  LocalEngine engine(options.model,
                     {.num_workers = 1,
                      .num_threads = options.threads,
                      .max_sequences = options.clients,
                      .max_batched_tokens = 512,
                      .kv_tokens = int64_t{options.clients} * (options.prompt + options.tokens + 32),
                      .prefix_caching = false,  // every run reads its prompts
                      .load = has_weights ? LoadMode::checkpoint : LoadMode::dummy});
  const auto tokenizer =
      Tokenizer::load(std::filesystem::path(GUILDHALL_SOURCE_DIR) / "deploy/demo-model").value();
  const Ready ready;
  auto server = HttpServer::start({.listen = "127.0.0.1:0",
                                   .num_threads = 1,
                                   .model_name = "bench",
                                   .max_model_len = options.prompt + options.tokens + 2,
                                   .vocab_size = static_cast<int32_t>(engine.spec().vocab_size)},
                                  ready)
                    .value();
  server->attach(engine.engine(), *tokenizer);
  measure(engine, clients, server->port(), options);
  server->stop(std::chrono::milliseconds(0));
  return 0;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options;
  CLI::App app("Decode rate of clients' streams beside the engine's own", "serving_bench");
  app.add_option("MODEL_DIR", options.model, "Folder with a config.json; without weights they are random");
  app.add_option("--threads", options.threads);
  app.add_option("--clients", options.clients)->check(CLI::Range(1, 256));
  app.add_option("--prompt", options.prompt)->check(CLI::Range(1, 100'000));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(1, 100'000));
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  return guildhall::main_with(options);
}
