// linear_simd.cc: a block of linear, from register tiles: straight from W for few rows, from packed fp32 W for many.
#include "kernels/linear_block.h"
#include "kernels/linear_tile.h"

namespace guildhall::GH_ISA_NS {
namespace {

// From this many rows on, W is converted once per block instead of once per tile of kTileT rows.
constexpr int64_t kMinPackedRows = 2 * kTileT + 1;

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

// The size of the next part when `left` is split into the fewest parts of at most `most`, as even as can be: a
// lone row would leave the multipliers waiting.
GH_INLINE int64_t even_part(int64_t left, int64_t most) {
  const int64_t parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

Output output_at(const LinearBlock& b, int64_t t, int64_t n) {
  return {b.y + t * b.y_stride + n, b.y_stride, b.bias != nullptr ? b.bias + n : nullptr, b.accumulate};
}

template <int TR, int NR, class W>
void direct_tile(const LinearBlock& b, int64_t t, int64_t n) {
  const W* w = static_cast<const W*>(b.w) + n * b.k;
  Accumulators<TR, NR> acc{};
  // The first rows to touch a tile of W bring in the next one.
  const int64_t ahead = t == 0 ? NR * b.k : 0;
  accumulate_tile<TR, NR, W>(b.x + t * b.x_stride, b.x_stride, w, b.k, b.k, ahead, acc);
  finish_tile<TR, NR>(acc, output_at(b, t, n));
}

template <class W>
void direct_block(const LinearBlock& b) {
  for (int64_t n = 0; n < b.num_n;) {
    const bool full = n + kTileN <= b.num_n;
    for (int64_t t = 0; t < b.num_t;) {
      const int64_t rows = even_part(b.num_t - t, kTileT);
      with_rows(rows, [&]<int TR>() {
        if (full)
          direct_tile<TR, kTileN, W>(b, t, n);
        else
          direct_tile<TR, 1, W>(b, t, n);
      });
      t += rows;
    }
    n += full ? kTileN : 1;
  }
}

// packed[n,i] = W[n_begin+n, k_begin+i].
template <class W>
void pack(const LinearBlock& b, int64_t n_begin, int64_t num_n, int64_t k_begin, int64_t num_k, float* packed) {
  for (int64_t n = 0; n < num_n; ++n) {
    const W* w = static_cast<const W*>(b.w) + (n_begin + n) * b.k + k_begin;
    float* out = packed + n * kPackedStride;
    int64_t i = 0;
    for (; i + kLanes <= num_k; i += kLanes) store(out + i, load_w(w + i));
    if (i < num_k) store_n(out + i, load_w_n(w + i, num_k - i), num_k - i);
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
};

template <int TR, int NR>
void packed_tile(const Share& s, const Output& out) {
  Accumulators<TR, NR> acc{};
  if (!s.first)
#pragma GCC unroll 64
    for (int i = 0; i < TR * NR; ++i) acc.v[i / NR][i % NR] = load(s.acc_memory + i * kLanes);
  accumulate_tile<TR, NR, float>(s.x, s.x_stride, s.w, kPackedStride, s.k, 0, acc);
  if (s.last) {
    finish_tile<TR, NR>(acc, out);
    return;
  }
#pragma GCC unroll 64
  for (int i = 0; i < TR * NR; ++i) store(s.acc_memory + i * kLanes, acc.v[i / NR][i % NR]);
}

// num_n <= kBlockN, num_t <= kBlockT.
template <class W>
void packed_block(const LinearBlock& b, int64_t t_begin, int64_t num_t, int64_t n_begin, int64_t num_n) {
  float* const packed = b.scratch;
  float* const acc_memory = b.scratch + kBlockN * kPackedStride;
  for (int64_t k = 0; k == 0 || k < b.k; k += kBlockK) {
    const int64_t num_k = b.k - k < kBlockK ? b.k - k : kBlockK;
    pack<W>(b, n_begin, num_n, k, num_k, packed);
    for (int64_t t = 0; t < num_t;) {
      const int64_t rows = even_part(num_t - t, kTileT);
      const float* x = b.x + (t_begin + t) * b.x_stride + k;
      for (int64_t n = 0; n < num_n;) {
        const bool full = n + kTileN <= num_n;
        const Share share = {x, b.x_stride, packed + n * kPackedStride, num_k, k == 0, k + num_k == b.k,
                             acc_memory + (t * kBlockN + n * rows) * kLanes};
        const Output out = output_at(b, t_begin + t, n_begin + n);
        with_rows(rows, [&]<int TR>() {
          if (full)
            packed_tile<TR, kTileN>(share, out);
          else
            packed_tile<TR, 1>(share, out);
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
      packed_block<W>(b, t, rows, n, b.num_n - n < kBlockN ? b.num_n - n : kBlockN);
    t += rows;
  }
}

}  // namespace

void linear_block(const LinearBlock& b) {
  if (b.w_is_bf16)
    block<uint16_t>(b);
  else
    block<float>(b);
}

}  // namespace guildhall::GH_ISA_NS
