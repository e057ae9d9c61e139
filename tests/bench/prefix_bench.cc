// prefix_bench.cc: the time to the first token of a prompt that begins as an earlier one did, beside that of
// a prompt that nobody has sent before: what prefix caching saves. With --spill, other prompts have pushed
// the earlier one out of the cache meanwhile, and its beginning is read from a file in that folder. A model
// of random weights, in one process.
//   prefix_bench [MODEL_DIR] [--threads N] [--shared N] [--own N] [--rounds N] [--spill FOLDER]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "tests/bench/made_up_prompt.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct BenchOptions {
  std::filesystem::path model = std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/bench/models/q3moe";
  int threads = 2;
  int32_t shared = 2000, own = 20, rounds = 5;
  std::filesystem::path spill;  // empty: what is asked for again is still in memory
};

// `shared` tokens that depend on `beginning` only, then `own` of its own.
EngineRequest make_request(const ModelSpec& spec, const BenchOptions& options, int beginning, int ending) {
  EngineRequest request;
  request.prompt_ids = made_up_prompt(spec.vocab_size, options.shared, beginning);
  const std::vector<int32_t> own = made_up_prompt(spec.vocab_size, options.own, 1000 + ending);
  request.prompt_ids.insert(request.prompt_ids.end(), own.begin(), own.end());
  request.sampling.temperature = 0;
  request.max_tokens = 1;
  return request;
}

struct FirstToken {
  double ms = 0;
  int64_t num_cached_tokens = 0;
};
FirstToken first_token(LocalEngine& engine, EngineRequest request) {
  const int64_t begin = now_ns();
  const Completion done = engine.run(std::move(request));
  return {static_cast<double>(now_ns() - begin) * 1e-6, done.num_cached_tokens};
}

LocalEngineOptions engine_options(const BenchOptions& options) {
  const int64_t prompt = options.shared + options.own + 64;
  LocalEngineOptions engine{.num_workers = 1,
                            .num_threads = options.threads,
                            .max_batched_tokens = 512,
                            .kv_tokens = (options.rounds + 2) * prompt,
                            .load = LoadMode::dummy};
  if (options.spill.empty()) return engine;
  engine.kv_tokens = 2 * prompt;
  engine.spill = {
      .folder = options.spill, .size_bytes = 4ll << 30, .buffer_bytes = 256 << 20, .always_reads = true};
  return engine;
}

// Others take the whole cache; what it had is in the file when this returns.
void push_out(LocalEngine& engine, const BenchOptions& options, int round) {
  for (int i = 1; i <= 2; ++i)
    first_token(engine, make_request(engine.spec(), options, 10'000 * i + round, 1));
  const auto is_written = [](const EngineCounters& c) {
    return c.kv_spill_slots_used == c.kv_spill_pages_written;
  };
  while (!is_written(engine.engine().counters())) std::this_thread::yield();
}

int main_with(const BenchOptions& options) {
  LocalEngine engine(options.model, engine_options(options));
  fmt::print("{}: {} threads, {} shared tokens and {} of one's own\n", options.model.filename().string(),
             options.threads, options.shared, options.own);
  fmt::print("{:>12} {:>12} {:>8} {:>8}\n", "first ms", "second ms", "found", "ratio");
  first_token(engine, make_request(engine.spec(), options, /*beginning=*/0, 0));  // warm
  std::vector<double> ratios;
  for (int round = 1; round <= options.rounds; ++round) {
    const FirstToken first = first_token(engine, make_request(engine.spec(), options, round, 1));
    if (!options.spill.empty()) push_out(engine, options, round);
    const FirstToken second = first_token(engine, make_request(engine.spec(), options, round, 2));
    ratios.push_back(first.ms / second.ms);
    fmt::print("{:>12.1f} {:>12.1f} {:>8} {:>7.1f}x\n", first.ms, second.ms, second.num_cached_tokens,
               ratios.back());
  }
  std::ranges::sort(ratios);
  fmt::print("median {:.1f}x\n", ratios[ratios.size() / 2]);
  if (options.spill.empty()) return 0;
  const EngineCounters c = engine.engine().counters();
  fmt::print("{} pages written, {} read, {} dropped; {:.1f} KiB a page\n", c.kv_spill_pages_written,
             c.kv_spill_pages_read, c.kv_spill_pages_dropped,
             static_cast<double>(c.kv_spill_bytes_written) / 1024 /
                 static_cast<double>(std::max<int64_t>(1, c.kv_spill_pages_written)));
  return 0;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options;
  CLI::App app("First token of a prompt whose beginning is in the cache", "prefix_bench");
  app.add_option("MODEL_DIR", options.model, "Folder with a config.json");
  app.add_option("--threads", options.threads);
  app.add_option("--shared", options.shared)->check(CLI::PositiveNumber);
  app.add_option("--own", options.own)->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds)->check(CLI::PositiveNumber);
  app.add_option("--spill", options.spill, "Folder for a file of what the cache gives up")
      ->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  return guildhall::main_with(options);
}
