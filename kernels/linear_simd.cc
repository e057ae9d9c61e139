// linear_simd.cc: a block of linear from register tiles. Few rows of x: straight along W, whose reading
// bounds the time. Many: W is converted to fp32 once per block, and K is cut so that a tile's rows of x stay
// in L1. Measured with AVX-512 in cache: 70% of the register-only fma peak from 96 rows on, 50 to 60% from 6
// rows.
#include "kernels/linear_block.h"
#include "kernels/linear_tile.h"

namespace guildhall::GH_ISA_NS {
namespace {

// From this many rows on, W is converted once per block instead of once per tile of kTileT rows. Measured
// with AVX-512, packed against direct: 45 to 51% of peak against 57% at 13 rows, 58 against 59% at 24, 63
// against 59% at 32.
constexpr int64_t kMinPackedRows = 4 * kTileT + 1;

// Calls f with the compile-time constant nearest below; 1 <= rows <= kTileT.
template <int TR = kTileT, class F>
GH_INLINE void with_rows(int64_t rows, F f) {
  if constexpr (TR == 1) {
    f.template operator()<1>();
  } else {
    if (rows == TR)
      f.template operator()<TR>();
    else
      with_rows<TR - 1>(rows, f);
  }
}

// The size of the next part when `left` is split into the fewest parts of at most `most`, as even as can be:
// a lone row would leave the multipliers waiting.
GH_INLINE int64_t even_part(int64_t left, int64_t most) {
  const int64_t parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

Output output_at(const LinearBlock& b, int64_t t, int64_t n) {
  return {b.y + t * b.y_stride + n, b.y_stride, b.bias != nullptr ? b.bias + n : nullptr, b.accumulate};
}

static_assert(kTileT <= kMaxTileT && kLanes <= kMaxLanes);

GH_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

template <class W>
const W* weight_at(const LinearBlock& b, int64_t n, int64_t k) {
  return static_cast<const W*>(b.w) + n * b.k + k;
}

// W from row n, element k on. It may lie past the end: a prefetch of any address is harmless.
template <class W>
Ahead ahead_at(const LinearBlock& b, int64_t n, int64_t k) {
  return {reinterpret_cast<const char*>(weight_at<W>(b, n, k)), b.k * static_cast<int64_t>(sizeof(W)),
          static_cast<int64_t>(sizeof(W))};
}

// Of rows [n, n + NR) of W.
template <int NR, class W>
Factors<W, NR> factors_at(const LinearBlock& b, int64_t n) {
  Factors<W, NR> factors;
  if constexpr (sizeof(W) == 1) {
    for (int i = 0; i < NR; ++i)
      factors.scale_n[i] = b.scale + (b.scale_row + n + i) / kScaleBlock * b.scale_stride;
  }
  return factors;
}

template <bool kPrefetch, int TR, int NR, class W>
void direct_tile(const LinearBlock& b, int64_t t, int64_t n) {
  Accumulators<TR, NR> acc{};
  accumulate_tile<kPrefetch>(b.x + t * b.x_stride, b.x_stride, weight_at<W>(b, n, 0), b.k, b.k,
                             factors_at<NR, W>(b, n), ahead_at<W>(b, n + NR, 0), acc);
  finish_tile(acc, output_at(b, t, n));
}

// The first rows of x to meet a tile of W bring in the next one.
template <class W>
void direct_block(const LinearBlock& b) {
  for (int64_t n = 0; n < b.num_n;) {
    const bool full = n + kTileN <= b.num_n;
    for (int64_t t = 0; t < b.num_t;) {
      const int64_t rows = even_part(b.num_t - t, kTileT);
      with_rows(rows, [&]<int TR>() {
        if (!full)
          direct_tile<false, TR, 1, W>(b, t, n);
        else if (t == 0)
          direct_tile<true, TR, kTileN, W>(b, t, n);
        else
          direct_tile<false, TR, kTileN, W>(b, t, n);
      });
      t += rows;
    }
    n += full ? kTileN : 1;
  }
}

// packed[i,j] = W[n+i, k+j].
template <class W>
void pack(const LinearBlock& b, int64_t n, int64_t num_n, int64_t k, int64_t num_k, float* packed) {
  for (int64_t i = 0; i < num_n; ++i) {
    const W* w = weight_at<W>(b, n + i, k);
    float* out = packed + i * kPackedStride;
    Factors<W, 1> factors = factors_at<1, W>(b, n + i);
    int64_t j = 0;
    while (j + kLanes <= num_k) {
      factors.move_to(k + j);
      const int64_t end = at_most(num_k, j + kScaleBlock);
      for (; j + kLanes <= end; j += kLanes) store(out + j, factors.apply(0, load_w(w + j)));
    }
    if (j == num_k) continue;
    factors.move_to(k + j);
    store_n(out + j, factors.apply(0, load_w_n(w + j, num_k - j)), num_k - j);
  }
}

// One tile's share of K; its accumulators rest in acc_memory between shares.
struct Share {
  const float* x;
  int64_t x_stride;
  const float* w;
  int64_t k;
  bool first, last;
  float* acc_memory;
  Ahead ahead;
};

template <bool kPrefetch, int TR, int NR>
void packed_tile(const Share& s, const Output& out) {
  Accumulators<TR, NR> acc{};
  if (!s.first)
#pragma GCC unroll 64
    for (int i = 0; i < TR * NR; ++i) acc.v[i / NR][i % NR] = load(s.acc_memory + i * kLanes);
  accumulate_tile<kPrefetch>(s.x, s.x_stride, s.w, kPackedStride, s.k, Factors<float, NR>{}, s.ahead, acc);
  if (s.last) {
    finish_tile(acc, out);
    return;
  }
#pragma GCC unroll 64
  for (int i = 0; i < TR * NR; ++i) store(s.acc_memory + i * kLanes, acc.v[i / NR][i % NR]);
}

// A rectangle of y that the scratch memory holds the accumulators of: num_t <= kBlockT, num_n <= kBlockN.
struct Rect {
  int64_t t, num_t, n, num_n;
};

bool line_aligned(const float* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % 64 == 0 && stride % 16 == 0;
}

// A tile's rows of x, copied where each vector is one cache line: loads that straddle two took linear from
// 66% of peak to 50%, and a copy is used kBlockN times.
const float* align_x(const float* x, int64_t x_stride, int64_t rows, int64_t num_k, float* aligned) {
  for (int64_t t = 0; t < rows; ++t) {
    int64_t i = 0;
    for (; i + kLanes <= num_k; i += kLanes)
      store(aligned + t * kPackedStride + i, load(x + t * x_stride + i));
    if (i < num_k)
      store_n(aligned + t * kPackedStride + i, load_n(x + t * x_stride + i, num_k - i), num_k - i);
  }
  return aligned;
}

// The first rows of x to meet a share of W bring in what is packed next.
template <class W>
void packed_rect(const LinearBlock& b, const Rect& r) {
  float* const packed = b.scratch;
  float* const aligned_x = packed + kBlockN * kPackedStride;
  float* const acc_memory = aligned_x + kTileT * kPackedStride;
  const bool is_aligned = line_aligned(b.x, b.x_stride);
  for (int64_t k = 0; k == 0 || k < b.k; k += kBlockK) {
    const int64_t num_k = at_most(b.k - k, kBlockK);
    const bool last = k + num_k == b.k;
    pack<W>(b, r.n, r.num_n, k, num_k, packed);
    for (int64_t t = 0; t < r.num_t;) {
      const int64_t rows = even_part(r.num_t - t, kTileT);
      const float* x = b.x + (r.t + t) * b.x_stride + k;
      if (!is_aligned) x = align_x(x, b.x_stride, rows, num_k, aligned_x);
      const int64_t x_stride = is_aligned ? b.x_stride : kPackedStride;
      for (int64_t n = 0; n < r.num_n;) {
        const bool full = n + kTileN <= r.num_n;
        const Share share = {
            x,
            x_stride,
            packed + n * kPackedStride,
            num_k,
            k == 0,
            last,
            acc_memory + (t * kBlockN + n * rows) * kLanes,
            last ? ahead_at<W>(b, r.n + kBlockN + n, 0) : ahead_at<W>(b, r.n + n, k + kBlockK)};
        const Output out = output_at(b, r.t + t, r.n + n);
        with_rows(rows, [&]<int TR>() {
          if (!full)
            packed_tile<false, TR, 1>(share, out);
          else if (t == 0)
            packed_tile<true, TR, kTileN>(share, out);
          else
            packed_tile<false, TR, kTileN>(share, out);
        });
        n += full ? kTileN : 1;
      }
      t += rows;
    }
  }
}

template <class W>
void block(const LinearBlock& b) {
  if (b.num_t < kMinPackedRows) {
    direct_block<W>(b);
    return;
  }
  // x's piece outside: re-reading W costs a third of re-reading x.
  for (int64_t t = 0; t < b.num_t;) {
    const int64_t rows = even_part(b.num_t - t, kBlockT);
    for (int64_t n = 0; n < b.num_n; n += kBlockN)
      packed_rect<W>(b, {t, rows, n, at_most(b.num_n - n, kBlockN)});
    t += rows;
  }
}

}  // namespace

void linear_block(const LinearBlock& b) {
  if (b.element_bytes == 1)
    block<uint8_t>(b);
  else if (b.element_bytes == 2)
    block<uint16_t>(b);
  else
    block<float>(b);
}

}  // namespace guildhall::GH_ISA_NS
