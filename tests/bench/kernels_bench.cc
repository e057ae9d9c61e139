// kernels_bench.cc: linear and the expert FFN at decode and prefill shapes, as a share of what the machine
// can do. Counters: GB/s (weights read) and %read of the probe's bandwidth; GFLOP/s and %fma of the
// register-only peak. "best" counts the fastest iteration instead of the median one. The probes run first, in
// the same process, with the same number of threads. Working sets exceed 1 GiB, so that decode reads memory
// and not the last-level cache.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bandwidth_probe.h"
#include "kernels/expert_ffn.h"
#include "kernels/isa.h"
#include "kernels/linear.h"

namespace guildhall {
namespace {

constexpr int64_t kWeightBytes = int64_t{3} << 29;  // 1.5 GiB

struct Machine {
  explicit Machine(int num_threads)
      : team({.num_threads = num_threads, .spin_ns = 50'000}),
        weights(kWeightBytes, team),
        read_bytes_per_s(read_bandwidth(team, weights)),
        flops_per_s(peak_flops(team)) {
    std::printf("probe: threads=%d isa=%s read=%.1f GB/s fma=%.1f GFLOP/s\n", num_threads,
                std::string(to_string(current_isa())).c_str(), read_bytes_per_s / 1e9, flops_per_s / 1e9);
  }

  Team team;
  HugeBuffer weights;
  double read_bytes_per_s, flops_per_s;
};

Machine& machine(int64_t num_threads) {
  static std::map<int64_t, std::unique_ptr<Machine>> machines;
  static Isa measured_with = current_isa();
  if (measured_with != current_isa()) machines.clear();
  measured_with = current_isa();
  // One buffer at a time: two would not fit small machines.
  if (!machines.contains(num_threads)) {
    machines.clear();
    machines[num_threads] = std::make_unique<Machine>(static_cast<int>(num_threads));
  }
  return *machines[num_threads];
}

// Medians, not means: other processes come and go. Each iteration times `once` itself.
template <class Once>
void measure(benchmark::State& state, Machine& m, double bytes, double flops, Once once) {
  std::vector<double> seconds;
  once();
  for (auto _ : state) {
    const double begin = bench_seconds(m.team);
    once();
    seconds.push_back(bench_seconds(m.team) - begin);
    state.SetIterationTime(seconds.back());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2], best = seconds.front();
  state.counters["GB/s"] = bytes / median / 1e9;
  state.counters["%read"] = 100 * bytes / median / m.read_bytes_per_s;
  state.counters["%read_best"] = 100 * bytes / best / m.read_bytes_per_s;
  state.counters["GFLOP/s"] = flops / median / 1e9;
  state.counters["%fma"] = 100 * flops / median / m.flops_per_s;
  state.counters["%fma_best"] = 100 * flops / best / m.flops_per_s;
}

WeightView weight_at(const HugeBuffer& buffer, int64_t offset_bytes, int64_t rows, int64_t cols,
                     DType dtype) {
  return {buffer.data() + offset_bytes, dtype, rows, cols};
}

// One linear over as many distinct weight matrices as fill the buffer: a model's layers one after another.
void linear_layers(benchmark::State& state, DType dtype) {
  Machine& m = machine(state.range(0));
  const int64_t num_t = state.range(1), num_n = state.range(2), k = state.range(3);
  const int64_t matrix_bytes = num_n * k * dtype_bytes(dtype);
  // Decode walks the whole buffer; with many rows a few matrices say the same in less time.
  const int64_t num_matrices =
      std::min(m.weights.bytes() / matrix_bytes, num_t >= 64 ? 4 : m.weights.bytes());
  std::vector<float> x(static_cast<size_t>(num_t * k), 0.5f), y(static_cast<size_t>(num_t * num_n));
  const std::vector<float> scales(static_cast<size_t>(fp8_blocks(num_n) * fp8_scale_stride(k)), 1.0f);
  const double bytes = static_cast<double>(num_matrices * matrix_bytes);
  const double flops = 2.0 * static_cast<double>(num_matrices * num_n * k * num_t);
  measure(state, m, bytes, flops, [&] {
    for (int64_t i = 0; i < num_matrices; ++i) {
      WeightView w = weight_at(m.weights, i * matrix_bytes, num_n, k, dtype);
      if (dtype == DType::e4m3) w.scale_bb = scales.data();
      linear_cpu(m.team, {x.data(), num_t, k}, w, {}, {y.data(), num_t, num_n});
    }
  });
}
void BM_linear_bf16(benchmark::State& state) { linear_layers(state, DType::bf16); }
void BM_linear_fp8(benchmark::State& state) { linear_layers(state, DType::e4m3); }
void BM_linear_f32(benchmark::State& state) { linear_layers(state, DType::f32); }

// rows_per_expert rows for each of `active` experts of [F,H] bf16, drawn in turn from all that fit the
// buffer.
void BM_expert_ffn_bf16(benchmark::State& state) {
  Machine& m = machine(state.range(0));
  const int64_t active = state.range(1), rows_per_expert = state.range(2);
  const int64_t num_h = state.range(3), num_f = state.range(4);
  const int64_t matrix_bytes = num_h * num_f * 2;
  const int64_t num_layers =
      std::min<int64_t>(m.weights.bytes() / (3 * matrix_bytes * active), rows_per_expert >= 32 ? 2 : 1 << 20);
  std::vector<std::vector<ExpertWeightView>> layers(static_cast<size_t>(num_layers));
  int64_t offset_bytes = 0;
  const auto next = [&](int64_t rows, int64_t cols) {
    const WeightView w = weight_at(m.weights, offset_bytes, rows, cols, DType::bf16);
    offset_bytes += matrix_bytes;
    return w;
  };
  for (auto& experts : layers)
    for (int64_t e = 0; e < active; ++e) {
      const WeightView gate = next(num_f, num_h), up = next(num_f, num_h);
      experts.push_back({gate, up, next(num_h, num_f)});
    }
  const int64_t num_r = active * rows_per_expert;
  std::vector<int32_t> offset_e;
  for (int64_t e = 0; e <= active; ++e) offset_e.push_back(static_cast<int32_t>(e * rows_per_expert));
  std::vector<float> x(static_cast<size_t>(num_r * num_h), 0.01f), hidden(static_cast<size_t>(num_r * num_f)),
      y(x);
  const double bytes = static_cast<double>(num_layers * active * 3 * matrix_bytes);
  measure(state, m, bytes, bytes * static_cast<double>(rows_per_expert), [&] {
    for (const auto& experts : layers)
      expert_ffn_cpu(m.team, {x.data(), num_r, num_h}, offset_e, experts, {hidden.data(), num_r, num_f},
                     {y.data(), num_r, num_h});
  });
}

void BM_parallel_for_empty(benchmark::State& state) {
  Team team({.num_threads = static_cast<int>(state.range(0)), .spin_ns = 50'000});
  const std::function<void(int64_t)> nothing = [](int64_t) {};
  for (auto _ : state) team.parallel_for(state.range(0), nothing);
}

void register_all(int64_t max_threads) {
  std::vector<int64_t> threads = {1};
  if (max_threads > 1) threads.push_back(max_threads);
  benchmark::RegisterBenchmark("parallel_for_empty", BM_parallel_for_empty)
      ->Arg(1)
      ->Arg(2)
      ->ArgName("threads");
  for (int64_t p : threads) {
    auto* linear = benchmark::RegisterBenchmark("linear_bf16", BM_linear_bf16);
    linear->ArgNames({"threads", "T", "N", "K"})->UseManualTime()->Unit(benchmark::kMillisecond);
    for (int64_t t : {1, 2, 4, 8, 16, 32, 128, 512}) linear->Args({p, t, 2048, 2048});
    for (int64_t t : {1, 512}) linear->Args({p, t, 10944, 2048});
    for (int64_t t : {1, 8}) linear->Args({p, t, 512, 1024});
    auto* linear_fp8 = benchmark::RegisterBenchmark("linear_fp8", BM_linear_fp8);
    linear_fp8->ArgNames({"threads", "T", "N", "K"})->UseManualTime()->Unit(benchmark::kMillisecond);
    for (int64_t t : {1, 2, 4, 8, 16, 32, 128, 512}) linear_fp8->Args({p, t, 2048, 2048});
    auto* linear_f32 = benchmark::RegisterBenchmark("linear_f32", BM_linear_f32);
    linear_f32->ArgNames({"threads", "T", "N", "K"})->UseManualTime()->Unit(benchmark::kMillisecond);
    for (int64_t t : {1, 8, 512}) linear_f32->Args({p, t, 2048, 2048});
    auto* ffn = benchmark::RegisterBenchmark("expert_ffn_bf16", BM_expert_ffn_bf16);
    ffn->ArgNames({"threads", "active", "rows", "H", "F"})->UseManualTime()->Unit(benchmark::kMillisecond);
    for (int64_t active : {1, 8, 32}) ffn->Args({p, active, 1, 2048, 1408});
    for (int64_t rows : {4, 32, 128}) ffn->Args({p, 8, rows, 2048, 1408});
  }
}

}  // namespace
}  // namespace guildhall

// --isa=NAME chooses the instruction set; --threads=N the larger team (default: all cores); --clock=wall|cpu
// the clock.
int main(int argc, char** argv) {
  int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg.starts_with("--isa=")) {
      const auto isa = guildhall::parse_isa(arg.substr(6));
      if (!isa || *isa > guildhall::detect_isa()) {
        std::fprintf(stderr, "%s: this machine has portable to %s\n", argv[i],
                     std::string(guildhall::to_string(guildhall::detect_isa())).c_str());
        return 2;
      }
      guildhall::set_isa(*isa);
    } else if (arg.starts_with("--threads=")) {
      threads = std::max(1, std::atoi(argv[i] + 10));
    } else if (arg == "--clock=cpu" || arg == "--clock=wall") {
      guildhall::set_bench_clock(arg == "--clock=cpu" ? guildhall::BenchClock::cpu
                                                      : guildhall::BenchClock::wall);
    } else {
      argv[kept++] = argv[i];
    }
  }
  benchmark::Initialize(&kept, argv);
  if (benchmark::ReportUnrecognizedArguments(kept, argv)) return 2;
  guildhall::register_all(threads);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
