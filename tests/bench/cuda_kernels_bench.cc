// cuda_kernels_bench.cc: the device's row kernels, as a share of what the device's memory can do. Counters:
// us of one launch, GB/s (bytes that the kernel must read and write) and %copy of a device-to-device copy of
// 1 GiB, measured first in the same process. Decode shapes (few tokens) lie in the L2 cache and show a
// launch's own time.
//   cuda_kernels_bench --benchmark_filter=rmsnorm
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include "device_bench.h"
#include "kernels/combine.h"
#include "kernels/convert.h"
#include "kernels/embedding.h"
#include "kernels/fp8.h"
#include "kernels/fp8_weight.h"
#include "kernels/gate_topk.h"
#include "kernels/logit_edits.h"
#include "kernels/paged_attention.h"
#include "kernels/permute.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "kernels/swiglu.h"
#include "kernels/token_scores.h"

namespace guildhall {
namespace {

constexpr int64_t kHidden = 7168, kExpertWidth = 2048, kExperts = 256, kTopK = 8, kVocabulary = 129280;

void BM_embedding_bf16(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const DeviceArray<bf16> w(kVocabulary * kHidden);
  const DeviceArray<int32_t> ids(random_below(tokens, kVocabulary));
  const DeviceArray<float> x(tokens * kHidden);
  measure(state, tokens * kHidden * 6, [&] {
    embedding_cuda(nullptr, ids, {w.data(), DType::bf16, kVocabulary, kHidden}, x.rows(tokens));
  });
}

void BM_rmsnorm(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const DeviceArray<float> x(tokens * kHidden), y(tokens * kHidden), weight(kHidden);
  measure(state, tokens * kHidden * 8,
          [&] { rmsnorm_cuda(nullptr, x.rows(tokens), weight, 1e-6f, y.rows(tokens)); });
}

void BM_add_rmsnorm(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const DeviceArray<float> x(tokens * kHidden), y(tokens * kHidden), normed(tokens * kHidden),
      weight(kHidden);
  measure(state, tokens * kHidden * 16, [&] {
    add_rmsnorm_cuda(nullptr, y.rows(tokens), weight, 1e-6f, x.rows(tokens), normed.rows(tokens));
  });
}

// 64 heads of 128.
void BM_rope(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  constexpr int64_t kHeads = 64, kDim = 128, kPositions = 8192;
  const RopeTable table = make_rope_table({.dim = kDim}, kPositions);
  const DeviceArray<float> cos(table.cos_pd), sin(table.sin_pd), x(tokens * kHeads * kDim);
  const DeviceArray<int32_t> positions(random_below(tokens, kPositions));
  measure(state, tokens * kHeads * kDim * 8, [&] {
    rope_cuda(nullptr, {kDim, cos, sin}, RopePairing::half, positions, x.heads(tokens, kHeads));
  });
}

// One sequence, 8 heads of 128 into pages of 16.
template <DType kDType>
void BM_kv_write(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  constexpr int64_t kHeads = 8, kDim = 128, kBlock = 16;
  const int64_t pages = (tokens + kBlock - 1) / kBlock;
  std::vector<int32_t> position_t, page_b;
  for (int64_t t = 0; t < tokens; ++t) position_t.push_back(static_cast<int32_t>(t));
  for (int64_t b = 0; b < pages; ++b) page_b.push_back(static_cast<int32_t>(pages - 1 - b));
  const DeviceArray<float> k(tokens * kHeads * kDim), v(tokens * kHeads * kDim);
  const int64_t page_bytes = kv_page_layout(kDType, kBlock * kHeads, kDim, 0).page_bytes;
  const DeviceArray<std::byte> k_pages(pages * page_bytes), v_pages(pages * page_bytes);
  const DeviceArray<int32_t> sequence(tokens), position(position_t), table(page_b);
  const KvPages cache{kDType, pages, kBlock, kHeads, kDim, kDim, kDim, k_pages.data(), v_pages.data()};
  measure(state, tokens * (kHeads * kDim * 8 + 2 * page_bytes / kBlock), [&] {
    kv_write_cuda(nullptr, k.heads(tokens, kHeads), v.heads(tokens, kHeads),
                  {sequence, position, table.rows(1)}, cache);
  });
}

void BM_swiglu(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const DeviceArray<float> gate_up(tokens * 2 * kExpertWidth), y(tokens * kExpertWidth);
  measure(state, tokens * kExpertWidth * 12,
          [&] { swiglu_cuda(nullptr, gate_up.rows(tokens), y.rows(tokens)); });
}

void BM_to_bf16(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const DeviceArray<float> x(tokens * kHidden);
  const DeviceArray<bf16> y(tokens * kHidden);
  measure(state, tokens * kHidden * 6, [&] { to_bf16_cuda(nullptr, x.rows(tokens), y.rows(tokens)); });
}

void BM_to_fp8(benchmark::State& state) {
  const int64_t tokens = state.range(0), groups = fp8_groups(kHidden);
  const DeviceArray<float> x(random_floats(tokens * kHidden)), scale(tokens * groups);
  const DeviceArray<uint8_t> code(tokens * kHidden);
  measure(state, tokens * (kHidden * 5 + groups * 4),
          [&] { to_fp8_cuda(nullptr, x.rows(tokens), code.rows(tokens), scale.rows(tokens)); });
}

// state.range(0) rows of a weight matrix.
void BM_dequantize_fp8_weight(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const DeviceArray<uint8_t> code(rows * kHidden);
  const DeviceArray<float> scale(fp8_blocks(rows) * fp8_blocks(kHidden));
  const DeviceArray<bf16> w(rows * kHidden);
  measure(state, rows * kHidden * 3, [&] {
    dequantize_fp8_weight_cuda(nullptr, code.rows(rows), scale.rows(fp8_blocks(rows)), w.rows(rows));
  });
}

void BM_gate_topk(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const GateRule rule{.scoring = GateScoring::sigmoid,
                      .group_score = GroupScore::sum_top2,
                      .num_groups = 8,
                      .top_groups = 4,
                      .normalize = true,
                      .scale = 2.5f};
  const DeviceArray<float> logits(random_floats(tokens * kExperts)), bias(kExperts), weight(tokens * kTopK);
  const DeviceArray<int32_t> expert(tokens * kTopK);
  measure(state, tokens * (kExperts + 2 * kTopK) * 4, [&] {
    gate_topk_cuda(nullptr, logits.rows(tokens), bias, rule, expert.rows(tokens), weight.rows(tokens));
  });
}

void BM_group_by_expert(benchmark::State& state) {
  const int64_t pairs = state.range(0) * kTopK;
  const DeviceArray<int32_t> expert(random_below(pairs, kExperts)), offset(kExperts + 1), position(pairs);
  measure(state, pairs * 8, [&] { group_by_expert_cuda(nullptr, expert, offset, position); });
}

void BM_permute(benchmark::State& state) {
  const int64_t tokens = state.range(0), pairs = tokens * kTopK;
  std::vector<int32_t> position_p(static_cast<size_t>(pairs));
  for (int64_t p = 0; p < pairs; ++p) position_p[static_cast<size_t>(p)] = static_cast<int32_t>(p);
  std::shuffle(position_p.begin(), position_p.end(), std::mt19937(3));
  const DeviceArray<float> x(tokens * kHidden), grouped(pairs * kHidden);
  const DeviceArray<int32_t> row(random_below(pairs, tokens)), position(position_p);
  measure(state, pairs * kHidden * 8,
          [&] { permute_cuda(nullptr, x.rows(tokens), row, position, grouped.rows(pairs)); });
}

void BM_combine(benchmark::State& state) {
  const int64_t tokens = state.range(0), pairs = tokens * kTopK;
  const DeviceArray<float> rows(pairs * kHidden), weight(pairs), y(tokens * kHidden);
  const DeviceArray<int32_t> index(random_below(pairs, pairs));
  measure(state, (pairs + 2 * tokens) * kHidden * 4, [&] {
    combine_cuda(nullptr, rows.rows(pairs), index.rows(tokens), weight.rows(tokens), y.rows(tokens));
  });
}

void BM_sample(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const DeviceArray<float> logits(random_floats(rows * kVocabulary));
  std::vector<SampleDraw> draws;
  for (int64_t r = 0; r < rows; ++r)
    draws.push_back({r, {.temperature = 0.7f, .top_p = 0.9f, .top_k = 50}, 0.5});
  const DeviceArray<SampleDraw> draw(draws);
  const DeviceArray<int32_t> token(rows);
  measure(state, rows * kVocabulary * 4, [&] { sample_cuda(nullptr, logits.rows(rows), draw, token); });
}

// Penalties for a conversation's tokens.
void BM_edit_logits(benchmark::State& state) {
  const int64_t rows = state.range(0), edits = 2000;
  const DeviceArray<float> logits(random_floats(rows * kVocabulary));
  std::vector<EditedRow> edited;
  std::vector<LogitEdit> edit_e;
  for (int64_t r = 0; r < rows; ++r) {
    edited.push_back({.row = r, .first_edit = r * edits, .num_edits = edits});
    for (int32_t i = 0; i < edits; ++i) edit_e.push_back({.id = 7 * i, .repetition = 1.1f});
  }
  const DeviceArray<EditedRow> row(edited);
  const DeviceArray<LogitEdit> edit(edit_e);
  measure(state, rows * edits * 24, [&] { edit_logits_cuda(nullptr, row, edit, {}, logits.rows(rows)); });
}

void BM_token_scores(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const DeviceArray<float> logits(random_floats(rows * kVocabulary));
  std::vector<ScoredRow> wanted;
  for (int64_t r = 0; r < rows; ++r) wanted.push_back({r, 5, kMaxTopScores});
  const DeviceArray<ScoredRow> row(wanted);
  const DeviceArray<TokenScores> scores(std::vector<TokenScores>(wanted.size()));
  measure(state, rows * kVocabulary * 4, [&] { token_scores_cuda(nullptr, logits.rows(rows), row, scores); });
}

// One token, a small batch, a prefill chunk.
void register_all() {
  const auto add = [](const char* name, void (*body)(benchmark::State&), std::vector<int64_t> sizes) {
    auto* b = benchmark::RegisterBenchmark(name, body)->UseManualTime()->Unit(benchmark::kMicrosecond);
    for (int64_t size : sizes) b->Arg(size);
  };
  const std::vector<int64_t> tokens{1, 8, 4096};
  add("embedding_bf16", BM_embedding_bf16, tokens);
  add("rmsnorm", BM_rmsnorm, tokens);
  add("add_rmsnorm", BM_add_rmsnorm, tokens);
  add("rope", BM_rope, tokens);
  add("kv_write_bf16", BM_kv_write<DType::bf16>, tokens);
  add("kv_write_fp8", BM_kv_write<DType::e4m3>, tokens);
  add("swiglu", BM_swiglu, {8, 64, 32768});
  add("to_bf16", BM_to_bf16, tokens);
  add("to_fp8", BM_to_fp8, tokens);
  add("dequantize_fp8_weight", BM_dequantize_fp8_weight, {4096, 32768});
  add("gate_topk", BM_gate_topk, tokens);
  add("group_by_expert", BM_group_by_expert, tokens);
  add("permute", BM_permute, tokens);
  add("combine", BM_combine, tokens);
  add("edit_logits", BM_edit_logits, {1, 8, 64});
  add("sample", BM_sample, {1, 8, 128});
  add("token_scores", BM_token_scores, {1, 8, 64});
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  guildhall::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
