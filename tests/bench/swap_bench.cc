// swap_bench.cc: a preempted request goes on: after its pages came back from host memory, or after they were
// computed again, over lengths of its context; and which of the two the engine takes by its own measurements.
// A model of random weights, in one process. A more important request of the same length takes the room of
// the first; the time is from its end to the first one's next token, and so leaves out what copying out took.
//   swap_bench [MODEL_DIR] [--threads N] [--longest N]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>

#include "base/clock.h"
#include "tests/bench/made_up_prompt.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct BenchOptions {
  std::filesystem::path model = std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/bench/models/q3moe";
  int threads = 2;
  int64_t longest = 2048;
};

constexpr int kRounds = 3;

EngineRequest make_request(const ModelSpec& spec, int64_t length, int64_t salt, int32_t max_tokens) {
  EngineRequest request;
  request.prompt_ids = made_up_prompt(spec.vocab_size, length, salt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

struct Resumed {
  double ms = 0;
  EngineCounters counters;
};

// The last of some rounds, in an engine of its own.
Resumed resume(const BenchOptions& options, int64_t length, Preemption preemption) {
  LocalEngine engine(options.model, {.num_workers = 1,
                                     .num_threads = options.threads,
                                     .max_batched_tokens = 512,
                                     .kv_tokens = length + length / 2 + 64,
                                     .prefix_caching = false,
                                     .swap_tokens = 2 * length + 64,
                                     .preemption = preemption,
                                     .load = LoadMode::dummy});
  double ms = 0;
  for (int64_t round = 0; round < kRounds; ++round) {
    std::atomic<int64_t> important_ended{0}, resumed{0};
    std::atomic<int> num_tokens{0};
    std::promise<void> ended;
    EngineRequest first = make_request(engine.spec(), length, 2 * round, 64);
    first.priority = 1;
    engine.engine()
        .submit(std::move(first),
                [&](EngineEvent&& event) {
                  if (important_ended != 0 && resumed == 0) resumed = now_ns();
                  num_tokens += static_cast<int>(event.tokens.size());
                  if (event.finish) ended.set_value();
                })
        .value();
    while (num_tokens == 0) std::this_thread::yield();
    engine.engine()
        .submit(make_request(engine.spec(), length, 2 * round + 1, 1),
                [&](EngineEvent&& event) {
                  if (event.finish) important_ended = now_ns();
                })
        .value();
    ended.get_future().wait();
    ms = static_cast<double>(resumed - important_ended) * 1e-6;
  }
  engine.stop();
  return {ms, engine.engine().counters()};
}

int main_with(const BenchOptions& options) {
  fmt::print("{}: {} threads; ms until a preempted request's next token\n", options.model.filename().string(),
             options.threads);
  fmt::print("{:>8} {:>12} {:>12} {:>8}   {}\n", "context", "recompute", "swap", "ratio", "measured: took");
  for (int64_t length = 128; length <= options.longest; length *= 2) {
    const Resumed recomputed = resume(options, length, Preemption::recompute);
    const Resumed swapped = resume(options, length, Preemption::swap);
    const EngineCounters took = resume(options, length, Preemption::measured).counters;
    fmt::print("{:>8} {:>12.2f} {:>12.2f} {:>7.1f}x   swap {} of {}\n", length, recomputed.ms, swapped.ms,
               recomputed.ms / swapped.ms, took.preemptions_swap,
               took.preemptions_swap + took.preemptions_recompute);
  }
  return 0;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options;
  CLI::App app("Preempted requests: pages from host memory, or computed again", "swap_bench");
  app.add_option("MODEL_DIR", options.model, "Folder with a config.json");
  app.add_option("--threads", options.threads);
  app.add_option("--longest", options.longest, "Longest context")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  return guildhall::main_with(options);
}
