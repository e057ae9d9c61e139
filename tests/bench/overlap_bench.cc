// overlap_bench.cc: what two micro-batches per step are worth when the wire has latency: decode steps per
// second of one against two, and of the choice from measured times, on a model whose attention and experts
// take about equally long. Router and worker are threads of this process with one compute thread each; every
// frame is held back by the latency, one way.
//   overlap_bench [MODEL_DIR] [--latency-us N] [--batch N] [--rounds N] [--trace FILE]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct BenchOptions {
  std::filesystem::path model = std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/bench/models/overlap";
  int latency_us = 300, batch = 64, rounds = 11;
  int32_t tokens = 40;  // decode steps of a run
  std::string trace;
};

// Per decode step, summed over layers.
struct Times {
  double step_ms = 0, attention_ms = 0, experts_ms = 0, combine_ms = 0;
};

class Side {
 public:
  Side(const BenchOptions& options, MicroBatches micro_batches)
      : options_(options),
        engine_(options.model, {.num_workers = 1,
                                .num_threads = 1,
                                .max_sequences = options.batch,
                                .max_batched_tokens = options.batch,
                                .kv_tokens = 1 << 16,
                                .prefix_caching = false,
                                .load = LoadMode::dummy,
                                .worker_threads = true,
                                .own_cores = true,
                                .latency = std::chrono::microseconds(options.latency_us),
                                .micro_batches = micro_batches}) {}

  // Prompts are one token each, so that every step is one token of every sequence.
  Times run() {
    const EngineCounters before = engine_.engine().counters();
    const uint64_t experts_before = engine_.worker_counters(0).compute_ns;
    std::vector<std::future<Completion>> pending;
    for (int i = 0; i < options_.batch; ++i) {
      EngineRequest request;
      request.prompt_ids = {static_cast<int32_t>(i % 256)};
      request.sampling.temperature = 0;
      request.max_tokens = options_.tokens;
      pending.push_back(engine_.submit(std::move(request)));
    }
    for (auto& p : pending) p.get();
    EngineCounters after;
    do after = engine_.engine().counters();  // published once the step's tokens were reported
    while (after.running > 0 || after.steps_by_micro_batches == before.steps_by_micro_batches);
    const auto steps = static_cast<double>(after.steps - before.steps);
    const auto ms = [&](int64_t ns) { return static_cast<double>(ns) * 1e-6 / steps; };
    const auto part = [&](StepPart p) {
      return ms(after.part_ns[static_cast<size_t>(p)] - before.part_ns[static_cast<size_t>(p)]);
    };
    return {.step_ms = ms(after.step_ns - before.step_ns),
            .attention_ms = part(StepPart::attention),
            .experts_ms = ms(static_cast<int64_t>(engine_.worker_counters(0).compute_ns - experts_before)),
            .combine_ms = part(StepPart::combine)};
  }

  double share_of_two() {
    const auto steps = engine_.engine().counters().steps_by_micro_batches;
    return static_cast<double>(steps[1]) / static_cast<double>(steps[0] + steps[1]);
  }

 private:
  const BenchOptions& options_;
  LocalEngine engine_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print_times(const char* name, const Times& t) {
  fmt::print(
      "  {:<10} {:>8.1f} steps/s  step {:6.2f} ms: attention {:6.2f}, experts {:6.2f}, awaiting answers "
      "{:6.2f}\n",
      name, 1e3 / t.step_ms, t.step_ms, t.attention_ms, t.experts_ms, t.combine_ms);
}

int main_with(const BenchOptions& options) {
  if (!options.trace.empty())
    start_trace({.file = options.trace, .process = "overlap_bench", .max_events = 1 << 18});
  Side one(options, MicroBatches::one), two(options, MicroBatches::two),
      chosen(options, MicroBatches::automatic);
  fmt::print("{}: {} sequences, latency {} us one way, router and worker with 1 thread each\n",
             options.model.filename().string(), options.batch, options.latency_us);
  for (Side* side : {&one, &two, &chosen}) side->run();  // warm
  std::vector<double> ratios, chosen_ratios;
  double fastest_one = 1e9, fastest_two = 1e9;
  for (int i = 0; i < options.rounds; ++i) {
    const Times of_one = one.run(), of_two = two.run(), of_chosen = chosen.run();
    print_times("one", of_one);
    print_times("two", of_two);
    print_times("auto", of_chosen);
    ratios.push_back(of_one.step_ms / of_two.step_ms);
    fastest_one = std::min(fastest_one, of_one.step_ms);
    fastest_two = std::min(fastest_two, of_two.step_ms);
    chosen_ratios.push_back(of_one.step_ms / of_chosen.step_ms);
    std::fflush(stdout);
  }
  fmt::print("steps/s of two over one: {:.2f} (median of {} pairs; {:.2f} of the fastest runs)\n",
             median(ratios), options.rounds, fastest_one / fastest_two);
  fmt::print("steps/s of auto over one: {:.2f} (median), {:.0f}% of its steps as two\n",
             median(chosen_ratios), 100 * chosen.share_of_two());
  const Result<void> written = write_trace();
  if (written.has_error()) fmt::print(stderr, "overlap_bench: {}\n", written.error().message);
  return written.has_error();
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options;
  CLI::App app("One against two micro-batches under latency", "overlap_bench");
  app.add_option("MODEL_DIR", options.model, "Folder with a config.json");
  app.add_option("--latency-us", options.latency_us, "One way, per frame");
  app.add_option("--batch", options.batch, "Sequences, and so tokens per step");
  app.add_option("--rounds", options.rounds);
  app.add_option("--trace", options.trace, "Chrome trace of everything");
  CLI11_PARSE(app, argc, argv);
  guildhall::init_log("overlap_bench", "warn");
  return guildhall::main_with(options);
}
