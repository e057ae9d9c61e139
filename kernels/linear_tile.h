// linear_tile.h: the register tile of linear: TR rows of x against NR rows of W.
// Row rule: lane j of element (t,n)'s one vector accumulator adds x[t,k] W[n,k] for k = j, j + lanes, ... in
// order, by fma from zero (e4m3: W is the fp32 product of code and scale); past the end of K it adds 0 * 0;
// then the lanes are summed by halves. Every tile shape, blocking and element type does exactly that, so none
// of them shows in the bits.
//
// bf16 weights are widened and multiplied in fp32, with AVX512-BF16 too: its dot product would need x split
// in two bf16 halves to keep x's precision, flushes denormals, and measured 27 products/ns that way against
// 109 for fma (Xeon with both, 2.3 GHz).
#pragma once

#include "kernels/linear_block.h"
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

// Accumulators must fit the registers beside NR weights and one x: 24 of 32, 12 of 16, 8 of 16 (no fma: it
// needs temporaries).
constexpr int kTileN = 4;
#if defined(__AVX512F__)
constexpr int kTileT = 6;
#elif defined(__AVX2__)
constexpr int kTileT = 3;
#else
constexpr int kTileT = 2;
#endif

GH_INLINE Vf load_w(const float* p) { return load(p); }
GH_INLINE Vf load_w(const uint16_t* p) { return load_bf16(p); }
GH_INLINE Vf load_w(const uint8_t* p) { return load_e4m3(p); }
GH_INLINE Vf load_w_n(const float* p, int64_t n) { return load_n(p, n); }
GH_INLINE Vf load_w_n(const uint16_t* p, int64_t n) { return load_bf16_n(p, n); }
GH_INLINE Vf load_w_n(const uint8_t* p, int64_t n) { return load_e4m3_n(p, n); }

// What NR rows' loaded elements are multiplied by: nothing, or for e4m3 a factor per block of k.
template <class W, int NR>
struct Factors {
  __attribute__((always_inline)) void move_to(int64_t) {}
  __attribute__((always_inline)) Vf apply(int, Vf w) const { return w; }
};
template <int NR>
struct Factors<uint8_t, NR> {
  const float* scale_n[NR];  // each row's, from k = 0 on
  Vf now[NR];

  __attribute__((always_inline)) void move_to(int64_t k) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) now[n] = splat(scale_n[n][k / kScaleBlock] / kE4m3Unit);
  }
  __attribute__((always_inline)) Vf apply(int n, Vf w) const { return w * now[n]; }
};

template <int TR, int NR>
struct Accumulators {
  Vf v[TR][NR];
};

template <int TR, int NR>
GH_INLINE void step(const Vf (&x)[TR], const Vf (&w)[NR], Accumulators<TR, NR>& acc) {
#pragma GCC unroll 8
  for (int t = 0; t < TR; ++t)
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) acc.v[t][n] = fma(x[t], w[n], acc.v[t][n]);
}

// Weights to bring into L2 while a tile works: NR rows, each advancing with k.
struct Ahead {
  const char* p = nullptr;
  int64_t row_bytes = 0;      // from one row to the next
  int64_t element_bytes = 0;  // per k
};

// Adds the products of k elements. (Prefetching is a template parameter: a test in the loop costs a tenth.)
template <bool kPrefetch, int TR, int NR, class W>
GH_INLINE void accumulate_tile(const float* x, int64_t x_stride, const W* w, int64_t w_stride, int64_t k,
                               Factors<W, NR> factors, const Ahead& ahead, Accumulators<TR, NR>& acc) {
  constexpr int64_t kPerLine = 64 / static_cast<int64_t>(sizeof(W));
  static_assert(kScaleBlock % kPerLine == 0);
  int64_t i = 0;
  for (; i + kPerLine <= k; i += kPerLine) {
    if constexpr (kPrefetch)
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n)
        __builtin_prefetch(ahead.p + n * ahead.row_bytes + i * ahead.element_bytes, 0, 2);
    factors.move_to(i);
#pragma GCC unroll 8
    for (int64_t j = i; j < i + kPerLine; j += kLanes) {
      Vf wv[NR], xv[TR];
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) wv[n] = factors.apply(n, load_w(w + n * w_stride + j));
#pragma GCC unroll 8
      for (int t = 0; t < TR; ++t) xv[t] = load(x + t * x_stride + j);
      step<TR, NR>(xv, wv, acc);
    }
  }
  for (; i < k; i += kLanes) {
    const int64_t left = k - i < kLanes ? k - i : kLanes;
    factors.move_to(i);
    Vf wv[NR], xv[TR];
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) wv[n] = factors.apply(n, load_w_n(w + n * w_stride + i, left));
#pragma GCC unroll 8
    for (int t = 0; t < TR; ++t) xv[t] = load_n(x + t * x_stride + i, left);
    step<TR, NR>(xv, wv, acc);
  }
}

// The sums of four accumulators, each exactly reduce_add's.
GH_INLINE V4 reduce_add4(Vf a, Vf b, Vf c, Vf d) {
  const V4 qa = fold4_add(a), qb = fold4_add(b), qc = fold4_add(c), qd = fold4_add(d);
  const V4 ab = __builtin_shufflevector(qa, qb, 0, 4, 1, 5) + __builtin_shufflevector(qa, qb, 2, 6, 3, 7);
  const V4 cd = __builtin_shufflevector(qc, qd, 0, 4, 1, 5) + __builtin_shufflevector(qc, qd, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// Where a tile's sums go.
struct Output {
  float* y;
  int64_t y_stride;
  const float* bias;  // or null
  bool accumulate;
};

template <int TR, int NR>
GH_INLINE void finish_tile(const Accumulators<TR, NR>& acc, const Output& out) {
#pragma GCC unroll 8
  for (int t = 0; t < TR; ++t) {
    float sum[NR];
    if constexpr (NR == 4) {
      const V4 s = reduce_add4(acc.v[t][0], acc.v[t][1], acc.v[t][2], acc.v[t][3]);
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) sum[n] = s[n];
    } else {
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) sum[n] = reduce_add(acc.v[t][n]);
    }
    float* y = out.y + t * out.y_stride;
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      const float with_bias = out.bias != nullptr ? sum[n] + out.bias[n] : sum[n];
      y[n] = out.accumulate ? y[n] + with_bias : with_bias;
    }
  }
}

}  // namespace guildhall::GH_ISA_NS
