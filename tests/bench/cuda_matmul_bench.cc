// cuda_matmul_bench.cc: attention, linears and the experts' FFN on the device. What is bound by memory is
// held against the copy within the device (%copy: bytes that must be read), what is bound by arithmetic
// against the best bf16 product of the library, 8192 cubed, measured first in the same process (%gemm).
//   cuda_kernels_bench --benchmark_filter='attention|linear|expert'
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "device_bench.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/memory.h"
#include "kernels/expert_ffn.h"
#include "kernels/linear.h"
#include "kernels/paged_attention.h"

namespace guildhall {
namespace {

struct Machine {
  std::shared_ptr<CudaDevice> device = CudaDevice::open(0).value();
  CudaMemory memory{device};
  // On the default stream, whose events device_seconds() takes; all scratch is there from the start.
  std::unique_ptr<Blas> blas = Blas::create(memory, nullptr, int64_t{2} << 30).value();
};
Machine& machine() {
  static Machine& made = *new Machine();  // stays: at exit CUDA's runtime may be gone before it
  return made;
}

// bf16 numbers of magnitude 1 without the time to draw each.
std::vector<bf16> some_bf16(int64_t n) {
  std::vector<bf16> x(static_cast<size_t>(n));
  uint32_t bits = 1;
  for (bf16& v : x) {
    bits = bits * 1664525u + 1013904223u;
    v.bits = static_cast<uint16_t>(0x3f00u | (bits >> 16 & 0x80ffu));
  }
  return x;
}

void measure_flops(benchmark::State& state, double flops, const std::function<void()>& kernel) {
  static const double best = [] {
    constexpr int64_t kN = 8192;
    const DeviceArray<bf16> x(some_bf16(kN * kN)), w(some_bf16(kN * kN));
    const DeviceArray<float> y(kN * kN);
    std::vector<double> seconds;
    for (int i = 0; i < 12; ++i)
      seconds.push_back(device_seconds([&] {
        machine().blas->multiply({.dtype = DType::bf16,
                                  .num_t = kN,
                                  .num_n = kN,
                                  .num_k = kN,
                                  .x = x.data(),
                                  .x_stride = kN,
                                  .w = w.data(),
                                  .y = y.data(),
                                  .y_stride = kN});
      }));
    const double rate = 2.0 * kN * kN * kN / *std::min_element(seconds.begin(), seconds.end());
    std::printf("probe: bf16 product=%.1f TFLOP/s\n", rate / 1e12);
    return rate;
  }();
  const double seconds = measured_seconds(state, kernel);
  state.counters["TFLOP/s"] = flops / seconds / 1e12;
  state.counters["%gemm"] = 100 * flops / seconds / best;
}

// Sequences with 8192 positions each in shuffled pages of 16, and one step over their last tokens.
class AttentionCase {
 public:
  struct Heads {
    int64_t num_heads, num_kv_heads, k_dim, v_dim;
    bool values_are_keys;
  };
  static constexpr int64_t kContext = 8192, kBlock = 16;

  AttentionCase(const Heads& heads, int64_t num_sequences, int64_t tokens_each)
      : heads_(heads),
        num_tokens_(num_sequences * tokens_each),
        table_(shuffled_pages(num_sequences)),
        k_(some_bf16(num_sequences * kContext * heads.num_kv_heads * heads.k_dim)),
        v_(heads.values_are_keys ? 1 : num_sequences * kContext * heads.num_kv_heads * heads.v_dim),
        q_(random_floats(num_tokens_ * heads.num_heads * heads.k_dim)),
        out_(num_tokens_ * heads.num_heads * heads.v_dim),
        sequence_host_(static_cast<size_t>(num_tokens_)),
        position_host_(static_cast<size_t>(num_tokens_)) {
    for (int64_t t = 0; t < num_tokens_; ++t) {
      sequence_host_[static_cast<size_t>(t)] = static_cast<int32_t>(t / tokens_each);
      position_host_[static_cast<size_t>(t)] = static_cast<int32_t>(kContext - tokens_each + t % tokens_each);
    }
    sequence_ = std::make_unique<DeviceArray<int32_t>>(sequence_host_);
    position_ = std::make_unique<DeviceArray<int32_t>>(position_host_);
    pages_ = {DType::bf16,
              num_sequences * kContext / kBlock,
              kBlock,
              heads.num_kv_heads,
              heads.k_dim,
              heads.v_dim,
              heads.values_are_keys ? heads.k_dim : heads.v_dim,
              k_.data(),
              heads.values_are_keys ? static_cast<void*>(k_.data()) : v_.data()};
    batch_ = {*sequence_, *position_, table_.rows(num_sequences),
              attention_bounds(sequence_host_, position_host_)};
    workspace_ = std::make_unique<DeviceArray<std::byte>>(std::max<int64_t>(
        paged_attention_cuda_workspace(num_tokens_, heads.num_heads, pages_, kContext), 16));
  }

  void run() const {
    paged_attention_cuda(nullptr, q_.heads(num_tokens_, heads_.num_heads), batch_, pages_, 0.05f, *workspace_,
                         out_.heads(num_tokens_, heads_.num_heads));
  }
  // Keys and values of all sequences, once.
  int64_t cache_bytes() const {
    const int64_t width = heads_.k_dim + (heads_.values_are_keys ? 0 : heads_.v_dim);
    return pages_.num_pages * kBlock * heads_.num_kv_heads * width * 2;
  }

 private:
  static std::vector<int32_t> shuffled_pages(int64_t num_sequences) {
    std::vector<int32_t> pages(static_cast<size_t>(num_sequences * kContext / kBlock));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
    return pages;
  }

  Heads heads_;
  int64_t num_tokens_;
  DeviceArray<int32_t> table_;
  DeviceArray<bf16> k_, v_;
  DeviceArray<float> q_, out_;
  std::vector<int32_t> sequence_host_, position_host_;
  std::unique_ptr<DeviceArray<int32_t>> sequence_, position_;
  std::unique_ptr<DeviceArray<std::byte>> workspace_;
  KvPages pages_;
  AttentionBatch batch_;
};

void decode(benchmark::State& state, const AttentionCase::Heads& heads) {
  const AttentionCase attention(heads, state.range(0), 1);
  measure(state, attention.cache_bytes(), [&] { attention.run(); });
}
void BM_attention_decode_mla16(benchmark::State& state) { decode(state, {16, 1, 576, 512, true}); }
void BM_attention_decode_mla128(benchmark::State& state) { decode(state, {128, 1, 576, 512, true}); }
void BM_attention_decode_gqa(benchmark::State& state) { decode(state, {32, 4, 128, 128, false}); }

// The last state.range(0) tokens of one sequence.
void BM_attention_prefill_gqa(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const AttentionCase attention({32, 4, 128, 128, false}, 1, tokens);
  const double seen = AttentionCase::kContext - (static_cast<double>(tokens) - 1) / 2;  // on average
  measure_flops(state, static_cast<double>(tokens) * 32 * seen * 256 * 2, [&] { attention.run(); });
}

// Codes of about 1, none of them NaN, with scales of 1.
struct SomeFp8 {
  DeviceArray<uint8_t> codes;
  DeviceArray<float> scales;

  SomeFp8(int64_t rows, int64_t cols)
      : codes(some_codes(rows * cols)),
        scales(std::vector<float>(static_cast<size_t>(fp8_blocks(rows) * fp8_scale_stride(cols)), 1.0f)) {}
  // [rows, cols] from element `at` on, a multiple of 128 rows.
  WeightView view(int64_t at, int64_t rows, int64_t cols) const {
    return {codes.data() + at, DType::e4m3, rows, cols, scales.data()};
  }

 private:
  static std::vector<uint8_t> some_codes(int64_t n) {
    std::vector<uint8_t> codes(static_cast<size_t>(n));
    uint32_t bits = 1;
    for (uint8_t& code : codes) {
      bits = bits * 1664525u + 1013904223u;
      code = static_cast<uint8_t>(0x30u | (bits >> 24 & 0x8fu));
    }
    return codes;
  }
};

// A weight that no cache holds.
void BM_linear_fp8(benchmark::State& state) {
  const int64_t t = state.range(0);
  constexpr int64_t kN = 32768, kK = 7168;
  const SomeFp8 w(kN, kK);
  const DeviceArray<float> x(random_floats(t * kK)), y(t * kN);
  const auto run = [&] { linear_cuda(*machine().blas, x.rows(t), w.view(0, kN, kK), {}, y.rows(t)); };
  if (t <= kFewRows)
    measure(state, kN * kK, run);
  else
    measure_flops(state, 2.0 * static_cast<double>(t) * kN * kK, run);
}

void BM_linear_bf16(benchmark::State& state) {
  const int64_t t = state.range(0);
  constexpr int64_t kN = 32768, kK = 7168;
  const DeviceArray<bf16> w(some_bf16(kN * kK));
  const DeviceArray<float> x(random_floats(t * kK)), y(t * kN);
  const auto run = [&] {
    linear_cuda(*machine().blas, x.rows(t), {w.data(), DType::bf16, kN, kK}, {}, y.rows(t));
  };
  if (t <= 64)
    measure(state, kN * kK * 2, run);
  else
    measure_flops(state, 2.0 * static_cast<double>(t) * kN * kK, run);
}

// state.range(0) rows spread evenly over state.range(1) experts of DeepSeek-V3.
void BM_expert_ffn_fp8(benchmark::State& state) {
  const int64_t rows = state.range(0), num_e = state.range(1);
  constexpr int64_t kH = 7168, kF = 2048, kWeights = 3 * kH * kF;
  const SomeFp8 w(num_e * 3 * kF, kH);
  const DeviceArray<float> x(random_floats(rows * kH)), hidden(rows * kF), y(rows * kH);
  std::vector<ExpertWeightView> experts;
  std::vector<int32_t> offset_e = {0};
  for (int64_t e = 0; e < num_e; ++e) {
    const int64_t own = e * kWeights;
    experts.push_back(
        {w.view(own, kF, kH), w.view(own + kF * kH, kF, kH), w.view(own + 2 * kF * kH, kH, kF)});
    offset_e.push_back(static_cast<int32_t>(rows * (e + 1) / num_e));
  }
  const auto run = [&] {
    expert_ffn_cuda(*machine().blas, x.rows(rows), offset_e, experts, hidden.rows(rows), y.rows(rows));
  };
  if (rows <= 8 * num_e)
    measure(state, std::min(rows, num_e) * kWeights, run);
  else
    measure_flops(state, 2.0 * static_cast<double>(rows) * kWeights, run);
}

// state.range(0) rows spread evenly over state.range(1) experts of DeepSeek-V2-Lite.
void BM_expert_ffn_bf16(benchmark::State& state) {
  const int64_t rows = state.range(0), num_e = state.range(1);
  constexpr int64_t kH = 2048, kF = 1408, kWeights = 3 * kH * kF;
  const DeviceArray<bf16> w(some_bf16(num_e * kWeights));
  const DeviceArray<float> x(random_floats(rows * kH)), hidden(rows * kF), y(rows * kH);
  std::vector<ExpertWeightView> experts;
  std::vector<int32_t> offset_e = {0};
  for (int64_t e = 0; e < num_e; ++e) {
    bf16* const own = w.data() + e * kWeights;
    experts.push_back({{own, DType::bf16, kF, kH},
                       {own + kF * kH, DType::bf16, kF, kH},
                       {own + 2 * kF * kH, DType::bf16, kH, kF}});
    offset_e.push_back(static_cast<int32_t>(rows * (e + 1) / num_e));
  }
  const auto run = [&] {
    expert_ffn_cuda(*machine().blas, x.rows(rows), offset_e, experts, hidden.rows(rows), y.rows(rows));
  };
  if (rows <= 8 * num_e)
    measure(state, std::min(rows, num_e) * kWeights * 2, run);
  else
    measure_flops(state, 2.0 * static_cast<double>(rows) * kWeights, run);
}

BENCHMARK(BM_attention_decode_mla16)->Arg(1)->Arg(8)->Arg(64)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_attention_decode_mla128)->Arg(1)->Arg(32)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_attention_decode_gqa)->Arg(1)->Arg(32)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_attention_prefill_gqa)->Arg(4096)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_linear_bf16)->Arg(1)->Arg(8)->Arg(64)->Arg(4096)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_linear_fp8)->Arg(1)->Arg(8)->Arg(64)->Arg(4096)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_expert_ffn_fp8)
    ->Args({32, 32})
    ->Args({256, 32})
    ->Args({4096, 32})
    ->Args({4096, 4})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_expert_ffn_bf16)
    ->Args({64, 64})
    ->Args({384, 64})
    ->Args({4096, 64})
    ->Args({4096, 8})
    ->Args({32768, 64})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace guildhall
