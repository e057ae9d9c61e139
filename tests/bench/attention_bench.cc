// attention_bench.cc: paged attention (decode and prefill), sampling and the gate at the shapes of real
// models. Attention's counters: GB/s of keys and values that it has to read once, and GFLOP/s of the
// products.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/gate_topk.h"
#include "kernels/logit_edits.h"
#include "kernels/paged_attention.h"
#include "kernels/sampling.h"
#include "kernels/token_scores.h"

namespace guildhall {
namespace {

std::vector<float> random_row(int64_t n, float scale) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(generator);
  return x;
}

struct Shape {
  int64_t num_heads, num_kv_heads, k_dim, v_dim;
  bool values_are_keys;
};
constexpr Shape kGqa{32, 4, 128, 128, false};    // Qwen3-30B-A3B
constexpr Shape kMla{16, 1, 576, 512, true};     // DeepSeek-V2-Lite
constexpr Shape kMlaV3{128, 1, 576, 512, true};  // DeepSeek-V3

// `sequences` x `new_tokens` queries at the end of contexts of `context` tokens; cache in blocks of 16.
void attention(benchmark::State& state, Shape s, DType dtype) {
  const int64_t num_threads = state.range(0), sequences = state.range(1), new_tokens = state.range(2),
                context = state.range(3);
  Team team({.num_threads = static_cast<int>(num_threads), .spin_ns = 50'000});
  const int64_t blocks = (context + 15) / 16, num_pages = sequences * blocks;
  std::byte keys, values;  // addresses that tell whether they are shared
  KvPages pages{dtype,
                num_pages,
                16,
                s.num_kv_heads,
                s.k_dim,
                s.v_dim,
                s.values_are_keys ? s.k_dim : s.v_dim,
                &keys,
                s.values_are_keys ? &keys : &values};
  const int64_t k_bytes = key_layout(pages).page_bytes,
                v_bytes = s.values_are_keys ? 0 : value_layout(pages).page_bytes;
  // Bytes that are small numbers in every element type.
  std::vector<std::byte> k(num_pages * k_bytes, std::byte{0x3d}), v(num_pages * v_bytes, std::byte{0x3e});
  pages.k = k.data();
  pages.v = s.values_are_keys ? k.data() : v.data();
  std::vector<int32_t> table(num_pages), sequence, position;
  for (int64_t p = 0; p < num_pages; ++p) table[p] = static_cast<int32_t>((p * 7919) % num_pages);
  for (int64_t i = 0; i < sequences; ++i) {
    for (int64_t t = 0; t < new_tokens; ++t) {
      sequence.push_back(static_cast<int32_t>(i));
      position.push_back(static_cast<int32_t>(context - new_tokens + t));
    }
  }
  const int64_t tokens = sequences * new_tokens;
  const std::vector<float> q = random_row(tokens * s.num_heads * s.k_dim, 1);
  std::vector<float> out(tokens * s.num_heads * s.v_dim);
  const AttentionBatch batch{sequence, position, View2<const int32_t>(table.data(), sequences, blocks)};
  for (auto _ : state)
    paged_attention_cpu(team, View3<const float>(q.data(), tokens, s.num_heads, s.k_dim), batch, pages, 0.1f,
                        View3<float>(out.data(), tokens, s.num_heads, s.v_dim));
  double pairs = 0;
  for (int32_t p : position) pairs += p + 1.0;
  const double bytes = static_cast<double>(sequences * context * (k_bytes + v_bytes)) / 16;
  const double flops = 2 * pairs * static_cast<double>(s.num_heads * (s.k_dim + s.v_dim));
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] = Counter(flops / 1e9, Counter::kIsIterationInvariantRate);
}

void attention_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "sequences", "new", "context"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (int64_t threads : {1, 2}) {
    for (int64_t context : {1024, 8192}) b->Args({threads, 1, 1, context});
    b->Args({threads, 16, 1, 1024});
    b->Args({threads, 1, 512, 512});
  }
}
BENCHMARK_CAPTURE(attention, gqa_32_4_128, kGqa, DType::bf16)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, gqa_32_4_128_fp8, kGqa, DType::e4m3)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, gqa_32_4_128_int8, kGqa, DType::int8)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, mla_16, kMla, DType::bf16)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, mla_16_fp8, kMla, DType::e4m3)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, mla_16_int8, kMla, DType::int8)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, mla_128, kMlaV3, DType::bf16)->Apply(attention_shapes);

void sample(benchmark::State& state, SamplingRule rule) {
  const std::vector<float> logits = random_row(128 * 1024, 3);
  uint64_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sample_cpu(logits, rule, sampling_uniform(1, position++)));
}
BENCHMARK_CAPTURE(sample, greedy_128k, {.temperature = 0})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, plain_128k, {})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_p_128k, {.temperature = 0.7f, .top_p = 0.95f})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_k_128k, {.temperature = 0.7f, .top_p = 0.95f, .top_k = 50})
    ->Unit(benchmark::kMicrosecond);

void log_sum_exp(benchmark::State& state) {
  const std::vector<float> logits = random_row(128 * 1024, 3);
  for (auto _ : state) benchmark::DoNotOptimize(log_sum_exp_cpu(logits));
}
BENCHMARK(log_sum_exp)->Unit(benchmark::kMicrosecond);

// Penalties for a conversation's tokens; a mask that allows one in 64.
void edit_logits(benchmark::State& state, int64_t num_edits, bool masked) {
  std::vector<float> logits = random_row(128 * 1024, 3);
  const auto size = static_cast<int64_t>(logits.size());
  std::vector<LogitEdit> edits;
  for (int32_t i = 0; i < num_edits; ++i) edits.push_back({.id = 61 * i, .repetition = 1.1f});
  std::vector<uint32_t> allowed(static_cast<size_t>(mask_words(size)));
  for (size_t w = 0; w < allowed.size(); w += 2) allowed[w] = 1;
  Team team({.num_threads = 1});
  const EditedRow row{.num_edits = num_edits, .mask = masked ? 0 : -1};
  for (auto _ : state)
    edit_logits_cpu(team, {&row, 1}, edits, {allowed.data(), 1, mask_words(size)}, {logits.data(), 1, size});
}
BENCHMARK_CAPTURE(edit_logits, of_2000_tokens_128k, 2000, false)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(edit_logits, masked_128k, 0, true)->Unit(benchmark::kMicrosecond);

void token_scores(benchmark::State& state) {
  const std::vector<float> logits = random_row(128 * 1024, 3);
  Team team({.num_threads = 1});
  const ScoredRow wanted{.row = 0, .token = 5, .num_top = kMaxTopScores};
  TokenScores scores;
  for (auto _ : state)
    token_scores_cpu(team, {logits.data(), 1, static_cast<int64_t>(logits.size())}, {&wanted, 1},
                     {&scores, 1});
}
BENCHMARK(token_scores)->Unit(benchmark::kMicrosecond);

void gate_deepseek_v3(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const std::vector<float> logits = random_row(tokens * 256, 1), bias = random_row(256, 0.05f);
  std::vector<int32_t> expert(tokens * 8);
  std::vector<float> weight(tokens * 8);
  const GateRule rule{.scoring = GateScoring::sigmoid,
                      .group_score = GroupScore::sum_top2,
                      .num_groups = 8,
                      .top_groups = 4,
                      .normalize = true,
                      .scale = 2.5f};
  for (auto _ : state)
    gate_topk_cpu(View2<const float>(logits.data(), tokens, 256), bias, rule,
                  View2<int32_t>(expert.data(), tokens, 8), View2<float>(weight.data(), tokens, 8));
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(gate_deepseek_v3)->Arg(1)->Arg(512)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace guildhall
