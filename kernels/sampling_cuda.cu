// sampling_cuda.cu: sampling without sorting the vocabulary, a block per row; sample_ref's tokens.
// As in sampling_cpu.cc, any point of the cumulative distribution (the end of the top k, the end of the
// nucleus, the draw) is found from histograms that hold each bin's count and mass: first over the logits'
// range, then over the bits of those logits that fall into the point's bin, until one value is left. Masses
// are integers, so the order in which threads add them does not matter.
#include "base/check.h"
#include "kernels/cuda/logits.cuh"
#include "kernels/sampling.h"
#include "kernels/sampling_weight.h"

namespace guildhall {
namespace {

constexpr int kThreads = kLogitThreads, kNumWarps = kThreads / kWarp;
constexpr int kNumBuckets = 1024;   // over the logits' range
constexpr float kBucketRange = 30;  // in units of the temperature; what is further down has no weight
constexpr int kNumDigits = 2048;    // 11 of a logit's 32 bits at a time

using Mass = unsigned long long;  // what CUDA's atomics know 64 bits by

struct Amount {
  Mass mass, count;
};
__device__ inline Amount operator+(Amount a, Amount b) { return {a.mass + b.mass, a.count + b.count}; }

// A point of the cumulative distribution: the first place whose running count or mass, its own included, is
// more than `beyond`.
struct Point {
  bool by_count;
  Mass beyond;
  __device__ bool before(Amount a) const { return (by_count ? a.count : a.mass) > beyond; }
};

// Where a point lies: in the bin `index` of a histogram, behind tokens of that amount. No bin: index -1.
struct Place {
  int index;
  Amount behind;
};

// The tokens of one logit, which share their weight; ties stand by id.
struct Ties {
  uint32_t order;  // of the logit: choice.cuh
  Amount behind;
  Mass weight;
};

template <int kBins>
struct Histogram {
  Mass mass[kBins];
  unsigned count[kBins];

  __device__ void clear() {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) mass[i] = 0, count[i] = 0;
    __syncthreads();
  }
  __device__ void add(int bin, Mass weight) {
    atomicAdd(&mass[bin], weight);
    atomicAdd(&count[bin], 1u);
  }

  // For the whole block, after a barrier. `behind`: what stands before the first bin.
  __device__ Place find(Point point, Amount behind) const {
    GH_SHARED(Place, found, [1]);
    GH_SHARED(Amount, of_warp, [kNumWarps]);
    constexpr int kPerThread = kBins / kThreads;
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int first = static_cast<int>(threadIdx.x) * kPerThread;
    Amount mine{};
    for (int i = first; i < first + kPerThread; ++i) mine = mine + Amount{mass[i], count[i]};
    Amount through = mine;  // this warp's threads up to this one
    for (unsigned lanes = 1; lanes < kWarp; lanes *= 2) {
      const Amount lower{__shfl_up_sync(kFullWarp, through.mass, lanes),
                         __shfl_up_sync(kFullWarp, through.count, lanes)};
      if (lane >= static_cast<int>(lanes)) through = through + lower;
    }
    if (lane == kWarp - 1) of_warp[warp] = through;
    if (threadIdx.x == 0) found[0] = {-1, {}};
    __syncthreads();
    Amount running = behind + Amount{through.mass - mine.mass, through.count - mine.count};
    for (int w = 0; w < warp; ++w) running = running + of_warp[w];
    for (int i = first; i < first + kPerThread; ++i) {
      const Amount next = running + Amount{mass[i], count[i]};
      if (!point.before(running) && point.before(next)) found[0] = {i, running};  // one thread's at most
      running = next;
    }
    __syncthreads();
    const Place place = found[0];
    __syncthreads();  // `found` is free again
    return place;
  }
};
static_assert(kNumBuckets % kThreads == 0 && kNumDigits % kThreads == 0);

// One row and how its logits become weights. All threads of the block hold the same.
struct Row {
  const float* logits_v;
  int64_t size;
  float max, inverse_temperature, least;

  __device__ float probability(float logit) const {
    return sampling_probability(logit, max, inverse_temperature);
  }
  __device__ Mass weight(float logit) const { return sampling_weight(probability(logit)); }
  // Monotone in the logit: subtraction, multiplication and truncation are. kNumBuckets: dropped, or NaN.
  __device__ int bucket(float logit) const {
    if (logit == max) return 0;
    if (!(probability(logit) >= least)) return kNumBuckets;
    const float position = (max - logit) * (inverse_temperature * (kNumBuckets / kBucketRange));
    return min(static_cast<int>(position), kNumBuckets - 1);
  }
};

// Bit fields of a logit's order, most significant first.
struct Digit {
  int shift, bits;
};

// The ties at a point, which lies in the bucket `place`. For the whole block.
__device__ Ties find_ties(const Row& row, Point point, Place place, Histogram<kNumDigits>& digits) {
  constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};
  const int bucket = place.index;
  uint32_t descending = 0;  // ~order: the digits found so far
  for (const Digit digit : kDigits) {
    const uint32_t known = digit.shift + digit.bits == 32 ? 0 : ~uint32_t{0} << (digit.shift + digit.bits);
    digits.clear();
    for_logits(row.logits_v, row.size, [&](float logit, int64_t) {
      if (row.bucket(logit) != bucket) return;
      const uint32_t key = ~order_of(logit);
      if ((key & known) == descending)
        digits.add(static_cast<int>(key >> digit.shift & ((1u << digit.bits) - 1)), row.weight(logit));
    });
    __syncthreads();
    place = digits.find(point, place.behind);
    descending |= static_cast<uint32_t>(place.index) << digit.shift;
  }
  const Choice any_tie = Choice{~descending} << 32;
  return {~descending, place.behind, row.weight(value_of(any_tie))};
}

// body(v, lanes) for the ids [v, v + 32) of [begin, end), in order: which of them have a logit of this order.
// For a whole warp.
template <class Body>
__device__ void for_ties(const float* logits_v, int64_t begin, int64_t end, uint32_t order, Body body) {
  const auto lane = static_cast<int64_t>(threadIdx.x % kWarp);
  for (int64_t first = begin; first < end; first += kLogitsAtOnce * kWarp) {
    bool tied[kLogitsAtOnce];
    for (int i = 0; i < kLogitsAtOnce; ++i) {
      const int64_t v = first + i * kWarp + lane;
      tied[i] = v < end && order_of(logits_v[v]) == order;
    }
    for (int i = 0; i < kLogitsAtOnce; ++i) body(first + i * kWarp, __ballot_sync(kFullWarp, tied[i]));
  }
}

// The id of number `rank` of the tokens whose logit has this order. For the whole block; one thread writes.
__device__ void write_tie(const Row& row, uint32_t order, Mass rank, int32_t* token) {
  GH_SHARED(unsigned, count_w, [kNumWarps]);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t stretch = (row.size + kThreads - 1) / kThreads * kWarp;
  const int64_t begin = min(warp * stretch, row.size), end = min(begin + stretch, row.size);
  unsigned count = 0;
  for_ties(row.logits_v, begin, end, order, [&](int64_t, unsigned ties) { count += __popc(ties); });
  if (lane == 0) count_w[warp] = count;
  __syncthreads();
  Mass before = 0;
  for (unsigned w = 0; w < warp; ++w) before += count_w[w];
  if (rank < before || rank >= before + count) return;
  for_ties(row.logits_v, begin, end, order, [&](int64_t v, unsigned ties) {
    const bool mine = ties >> lane & 1;
    if (mine && before + __popc(ties & ((1u << lane) - 1)) == rank) *token = static_cast<int32_t>(v + lane);
    before += __popc(ties);
  });
}

__global__ void sample_kernel(View2<const float> logits_rv, const SampleDraw* draw_i, int32_t* token_i) {
  GH_SHARED(Histogram<kNumBuckets>, buckets, [1]);
  GH_SHARED(Histogram<kNumDigits>, digits, [1]);
  const SampleDraw sample = draw_i[blockIdx.x];
  const SamplingRule rule = sample.rule;
  int32_t* token = &token_i[blockIdx.x];
  Row row{logits_rv.row(sample.row), logits_rv.cols, 0, 1 / rule.temperature, least_probability(rule.min_p)};
  const Choice best = block_best(best_of_share(row.logits_v, row.size));
  row.max = value_of(best);
  if (rule.temperature == 0 || rule.top_k == 1 || row.max == -INFINITY) {
    if (threadIdx.x == 0) *token = static_cast<int32_t>(index_of(best));
    return;
  }

  buckets[0].clear();
  for_logits(row.logits_v, row.size, [&](float logit, int64_t) {
    const int bucket = row.bucket(logit);
    if (bucket < kNumBuckets) buckets[0].add(bucket, row.weight(logit));
  });
  __syncthreads();
  Mass mass = 0;
  for (int b = static_cast<int>(threadIdx.x); b < kNumBuckets; b += kThreads) mass += buckets[0].mass[b];
  mass = block_reduce(mass, Mass{0}, [](Mass a, Mass b) { return a + b; });

  if (rule.top_k > 0) {
    const Point end{true, static_cast<Mass>(rule.top_k)};
    const Place place = buckets[0].find(end, {});
    if (place.index >= 0) {
      const Ties ties = find_ties(row, end, place, digits[0]);
      mass = ties.behind.mass + (end.beyond - ties.behind.count) * ties.weight;
    }
  }
  if (rule.top_p < 1) {
    const Point last{false, nucleus_mass(rule.top_p, mass) - 1};
    const Ties ties = find_ties(row, last, buckets[0].find(last, {}), digits[0]);
    mass = ties.behind.mass + ((last.beyond - ties.behind.mass) / ties.weight + 1) * ties.weight;
  }
  const Point draw{false, target_mass(sample.u, mass)};
  const Ties ties = find_ties(row, draw, buckets[0].find(draw, {}), digits[0]);
  write_tie(row, ties.order, (draw.beyond - ties.behind.mass) / ties.weight, token);
}

}  // namespace

void sample_cuda(CudaStream stream, View2<const float> logits_rv, std::span<const SampleDraw> draw_i,
                 std::span<int32_t> token_i) {
  GH_CHECK(draw_i.size() == token_i.size());
  if (draw_i.empty()) return;
  GH_CHECK(logits_rv.cols > 0 && logits_rv.cols <= int64_t{1} << 23);  // sampling_weight.h
  launch(sample_kernel, static_cast<unsigned>(draw_i.size()), kThreads, 0, stream, logits_rv, draw_i.data(),
         token_i.data());
}

}  // namespace guildhall
