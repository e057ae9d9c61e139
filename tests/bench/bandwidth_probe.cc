// bandwidth_probe.cc: a sum over a large buffer, and independent chains of fused multiply-adds.
#include "bandwidth_probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "kernels/isa.h"

namespace guildhall {
namespace {

BenchClock bench_clock = BenchClock::wall;

constexpr int64_t kChunkBytes = 1 << 20;
constexpr int kPasses = 5;

typedef uint64_t Words __attribute__((vector_size(64), may_alias));

#if defined(__x86_64__)
#define GH_WIDE __attribute__((target_clones("avx512f", "avx2", "default"), noinline))
#else
#define GH_WIDE __attribute__((noinline))
#endif

GH_WIDE uint64_t sum_chunk(const char* p) {
  const Words* words = reinterpret_cast<const Words*>(p);
  Words a{}, b{}, c{}, d{};
  for (int64_t i = 0; i < kChunkBytes / 64; i += 4) {
    a += words[i];
    b += words[i + 1];
    c += words[i + 2];
    d += words[i + 3];
  }
  a += b + c + d;
  uint64_t sum = 0;
  for (int i = 0; i < 8; ++i) sum += a[i];
  return sum;
}

constexpr int kChains = 12;
constexpr int64_t kChainSteps = 2'000'000;

// Floating-point operations done.
template <class V>
inline __attribute__((always_inline)) int64_t run_chains(float* sink) {
  V acc[kChains];
  const V x = V{} + 0.999f, y = V{} + 0.001f;
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) acc[c] = V{} + static_cast<float>(c);
  for (int64_t i = 0; i < kChainSteps; ++i)
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * x + y;
  for (int c = 0; c < kChains; ++c) *sink += acc[c][0];
  return kChainSteps * kChains * 2 * static_cast<int64_t>(sizeof(V) / sizeof(float));
}

typedef float V4 __attribute__((vector_size(16)));
typedef float V8 __attribute__((vector_size(32)));
typedef float V16 __attribute__((vector_size(64)));

#if defined(__x86_64__)
__attribute__((target("avx512f,fma"), noinline)) int64_t chains_avx512(float* sink) {
  return run_chains<V16>(sink);
}
__attribute__((target("avx2,fma"), noinline)) int64_t chains_avx2(float* sink) {
  return run_chains<V8>(sink);
}
#endif
__attribute__((noinline)) int64_t chains_portable(float* sink) { return run_chains<V4>(sink); }

double median(std::vector<double> rates) {
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

int64_t chains(float* sink) {
#if defined(__x86_64__)
  if (current_isa() >= Isa::avx512) return chains_avx512(sink);
  if (current_isa() == Isa::avx2) return chains_avx2(sink);
#endif
  return chains_portable(sink);
}

}  // namespace

void set_bench_clock(BenchClock clock) { bench_clock = clock; }

double bench_seconds(const Team& team) {
  if (bench_clock == BenchClock::wall) return static_cast<double>(now_ns()) * 1e-9;
  timespec t;
  GH_CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
  return (static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9) / team.num_threads();
}

HugeBuffer::HugeBuffer(int64_t bytes, Team& team) : bytes_(bytes / kChunkBytes * kChunkBytes) {
  void* p =
      mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  GH_CHECK(p != MAP_FAILED);
  madvise(p, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  data_ = static_cast<char*>(p);
  // Not zero: pages must be real, and weights made of it finite and normal (bf16 0x3c3c = 0.0115).
  team.parallel_for(bytes_ / kChunkBytes,
                    [&](int64_t i) { std::fill_n(data_ + i * kChunkBytes, kChunkBytes, char{0x3c}); });
}

HugeBuffer::~HugeBuffer() { munmap(data_, static_cast<size_t>(bytes_)); }

double read_bandwidth(Team& team, const HugeBuffer& buffer) {
  std::vector<double> rates;
  volatile uint64_t sink = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const double begin = bench_seconds(team);
    team.parallel_for(buffer.bytes() / kChunkBytes,
                      [&](int64_t i) { sink = sum_chunk(buffer.data() + i * kChunkBytes); });
    rates.push_back(static_cast<double>(buffer.bytes()) / (bench_seconds(team) - begin));
  }
  return median(rates);
}

double peak_flops(Team& team) {
  std::vector<double> rates;
  for (int pass = 0; pass < kPasses; ++pass) {
    constexpr int64_t kTasksPerThread = 8;
    int64_t flops_per_task = 0;
    const double begin = bench_seconds(team);
    team.parallel_for(kTasksPerThread * team.num_threads(), [&](int64_t i) {
      float local = 0;
      const int64_t flops = chains(&local);
      if (i == 0) flops_per_task = flops;
      if (local == 12345.0f) std::abort();  // uses the result
    });
    const double flops = static_cast<double>(flops_per_task * kTasksPerThread * team.num_threads());
    rates.push_back(flops / (bench_seconds(team) - begin));
  }
  return median(rates);
}

}  // namespace guildhall
