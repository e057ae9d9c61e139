// decode_bench.cc: a model of random weights from its config.json alone, in one process over loopback: tokens
// per second of prefill and of decode at several batch sizes, beside the floor that reading the touched
// weights sets at the bandwidth probed in the same run. Two programs: on the CPU and on a GPU.
//   decode_bench|cuda_decode_bench [MODEL_DIR] [--threads N] [--prompt N] [--tokens N] [--batches 1,4,8]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>
#include <thread>

#include "base/clock.h"
#include "base/units.h"
#include "tests/bench/decode_device.h"
#include "tests/bench/made_up_prompt.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct BenchOptions {
  std::filesystem::path model;
  int threads = 2;
  int32_t prompt = 128, tokens = 64;
  std::vector<int> batches{1, 4, 8};
};

double seconds_since(int64_t begin_ns) { return static_cast<double>(now_ns() - begin_ns) * 1e-9; }

EngineRequest make_request(const ModelSpec& spec, int32_t prompt, int32_t tokens, int salt) {
  EngineRequest request;
  request.prompt_ids = made_up_prompt(spec.vocab_size, prompt, salt);
  request.sampling.temperature = 0;
  request.max_tokens = tokens;
  return request;
}

// Wall time of `batch` requests at once.
double run(LocalEngine& engine, int batch, int32_t prompt, int32_t tokens) {
  std::vector<std::future<Completion>> pending;
  const int64_t begin = now_ns();
  for (int i = 0; i < batch; ++i)
    pending.push_back(engine.submit(make_request(engine.spec(), prompt, tokens, i)));
  for (auto& p : pending) p.get();
  return seconds_since(begin);
}

// The engine publishes a step's counters after it has reported the step's tokens.
EngineCounters settled_counters(LocalEngine& engine) {
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return engine.engine().counters();
}

// Weight bytes that one decode step of `batch` rows has to read: dense layers once, one embedding row each,
// and the experts that were really touched.
double step_bytes(const LocalEngine& engine, double experts_per_step) {
  const ModelSpec& spec = engine.spec();
  const int64_t embedding =
      spec.tie_embeddings ? 0 : spec.vocab_size * spec.hidden * dtype_bytes(spec.weight_dtype);
  return static_cast<double>(engine.dense_bytes() - embedding) +
         experts_per_step * static_cast<double>(expert_bytes(spec));
}

void print_decode(LocalEngine& engine, const BenchOptions& options, int batch, double bandwidth) {
  const EngineCounters before = settled_counters(engine);
  const double prefill = run(engine, batch, options.prompt, 1);
  const EngineCounters between = settled_counters(engine);
  const double whole = run(engine, batch, options.prompt, options.tokens + 1);
  const EngineCounters after = settled_counters(engine);

  // Both runs do the same prefill; what the second one has more is decode.
  const double decode = whole - prefill;
  const double rate = batch * options.tokens / decode;
  const double experts = static_cast<double>((after.experts_touched - between.experts_touched) -
                                             (between.experts_touched - before.experts_touched)) /
                         options.tokens;
  const double bytes = step_bytes(engine, experts);
  const double floor_rate = batch * bandwidth / bytes;
  const double step_ns = static_cast<double>(after.step_ns - before.step_ns);
  const double other = step_ns - static_cast<double>(after.kernel_ns - before.kernel_ns) -
                       static_cast<double>(after.exchange_ns - before.exchange_ns);
  fmt::print("{:>5} {:>12.1f} {:>12.1f} {:>12.1f} {:>9.1f}% {:>14} {:>14.1f}%\n", batch,
             batch * options.prompt / prefill, rate, floor_rate, 100 * rate / floor_rate,
             format_bytes(static_cast<int64_t>(bytes)), 100 * other / step_ns);
}

int main_with(const BenchOptions& options, DecodeDevice& device) {
  LocalEngine engine(options.model, {.num_workers = 1,
                                     .num_threads = options.threads,
                                     .max_batched_tokens = 512,
                                     .kv_tokens = 32 * 1024,
                                     .prefix_caching = false,  // every run reads its prompts
                                     .load = LoadMode::dummy,
                                     .make_ops = device.ops_maker()});
  fmt::print("{} on {}: {} threads, prompt {}, {} tokens decoded\n", options.model.filename().string(),
             device.name(), options.threads, options.prompt, options.tokens);
  fmt::print("{:>5} {:>12} {:>12} {:>12} {:>10} {:>14} {:>15}\n", "batch", "prefill t/s", "decode t/s",
             "floor t/s", "of floor", "bytes/step", "outside kernels");
  run(engine, 1, options.prompt, 4);  // warm
  for (const int batch : options.batches) {
    const double bandwidth = device.bandwidth();
    print_decode(engine, options, batch, bandwidth);
    fmt::print("      {} bandwidth {:.1f} GB/s before, {:.1f} GB/s after\n", device.bandwidth_of(),
               bandwidth * 1e-9, device.bandwidth() * 1e-9);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::BenchOptions options{.model = guildhall::default_decode_model()};
  CLI::App app("Decode and prefill of a random model against the bandwidth floor", "decode_bench");
  app.add_option("MODEL_DIR", options.model, "Folder with a config.json");
  app.add_option("--threads", options.threads);
  app.add_option("--prompt", options.prompt);
  app.add_option("--tokens", options.tokens);
  app.add_option("--batches", options.batches)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  try {
    return guildhall::main_with(options, *guildhall::make_decode_device(options.threads));
  } catch (const std::exception& error) {  // no device, no model
    fmt::print(stderr, "decode_bench: {}\n", error.what());
    return 1;
  }
}
