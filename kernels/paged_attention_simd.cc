// paged_attention_simd.cc: scores, softmax and weighted values of one split; merging splits.
// Row rule: a score accumulates along its dimension in one order, a value along the keys in one order,
// whatever rows and keys share the register tile and whether keys were widened beforehand (widening bf16 is
// exact; codes always are, times their scale). Keys a row does not see are never multiplied into it, not even
// by zero.
#include "kernels/paged_attention_split.h"
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {
namespace {

constexpr int kRowTile = 4;
constexpr int kKeyTile = kLanes == 16 ? 4 : 2;    // kRowTile * kKeyTile accumulators fit the registers
constexpr int kValueTile = kLanes == 16 ? 4 : 2;  // vectors of values

GH_INLINE Vf widen(const float* p) { return load(p); }
GH_INLINE Vf widen(const uint16_t* p) { return load_bf16(p); }
GH_INLINE Vf widen_n(const float* p, int64_t n) { return load_n(p, n); }
GH_INLINE Vf widen_n(const uint16_t* p, int64_t n) { return load_bf16_n(p, n); }

// out[j] = reduce_add(sum[j]) bit by bit, the additions of several keys sharing vectors.
template <int kKeys>
GH_INLINE void reduce_keys(const Vf* sum, float* out) {
#if defined(__AVX512F__)
  if constexpr (kKeys == 4) {
    const Vf ab =
        __builtin_shufflevector(sum[0], sum[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        __builtin_shufflevector(sum[0], sum[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vf cd =
        __builtin_shufflevector(sum[2], sum[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        __builtin_shufflevector(sum[2], sum[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vf q = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    const Vf pairs = q + __builtin_shufflevector(q, q, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const Vf all =
        pairs + __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    const V4 four = __builtin_shufflevector(all, all, 0, 4, 8, 12);
    __builtin_memcpy(out, &four, sizeof four);
    return;
  }
#elif defined(__AVX2__)
  if constexpr (kKeys == 2) {
    const Vf q = __builtin_shufflevector(sum[0], sum[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(sum[0], sum[1], 4, 5, 6, 7, 12, 13, 14, 15);
    const Vf pairs = q + __builtin_shufflevector(q, q, 2, 3, 0, 1, 6, 7, 4, 5);
    const Vf all = pairs + __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6);
    out[0] = all[0];
    out[1] = all[4];
    return;
  }
#endif
  for (int j = 0; j < kKeys; ++j) out[j] = reduce_add(sum[j]);
}

// Asks for a row of the cache ahead of its use: the rows of one head lie a whole token apart, too far for the
// processor's own prefetching.
GH_INLINE void fetch_row(const void* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(row) + i);
}

template <int kRows, int kKeys, class T>
GH_INLINE void score_tile(const float* const* q_r, const void* const* k_j, int64_t dim, float* score_rj) {
  Vf sum[kRows][kKeys] = {};
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    Vf key[kKeys];
#pragma GCC unroll 4
    for (int j = 0; j < kKeys; ++j) key[j] = widen(static_cast<const T*>(k_j[j]) + d);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vf q = load(q_r[r] + d);
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) sum[r][j] = fma(q, key[j], sum[r][j]);
    }
  }
  if (d < dim) {
    for (int j = 0; j < kKeys; ++j) {
      const Vf key = widen_n(static_cast<const T*>(k_j[j]) + d, dim - d);
      for (int r = 0; r < kRows; ++r) sum[r][j] = fma(load_n(q_r[r] + d, dim - d), key, sum[r][j]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) reduce_keys<kKeys>(sum[r], score_rj + r * AttentionSplit::kKeys);
}

template <int kRows, class T>
void score_rows(const float* const* q_r, const void* const* k_j, int64_t num_keys, int64_t dim,
                float* score_rj) {
  int64_t j = 0;
  for (; j + kKeyTile <= num_keys; j += kKeyTile)
    score_tile<kRows, kKeyTile, T>(q_r, k_j + j, dim, score_rj + j);
  for (; j < num_keys; ++j) score_tile<kRows, 1, T>(q_r, k_j + j, dim, score_rj + j);
}

template <int kRows, int kVectors, class T>
GH_INLINE void value_tile(const float* p_rj, const void* const* v_j, int64_t num_keys, int64_t d, int64_t dim,
                          float* sum_rd) {
  Vf sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) sum[r][i] = load(sum_rd + r * dim + d + i * kLanes);
  for (int64_t j = 0; j < num_keys; ++j) {
    const T* v = static_cast<const T*>(v_j[j]) + d;
    Vf value[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) value[i] = widen(v + i * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vf p = splat(p_rj[r * AttentionSplit::kKeys + j]);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) sum[r][i] = fma(p, value[i], sum[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) store(sum_rd + r * dim + d + i * kLanes, sum[r][i]);
}

// sum_rd[r] += sum over j of p_rj[r][j] * v_j[j], in order of j.
template <int kRows, class T>
void value_rows(const float* p_rj, const void* const* v_j, int64_t num_keys, int64_t dim, float* sum_rd) {
  int64_t d = 0;
  for (; d + kValueTile * kLanes <= dim; d += kValueTile * kLanes)
    value_tile<kRows, kValueTile, T>(p_rj, v_j, num_keys, d, dim, sum_rd);
  for (; d + kLanes <= dim; d += kLanes) value_tile<kRows, 1, T>(p_rj, v_j, num_keys, d, dim, sum_rd);
  if (d == dim) return;
  Vf sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = load_n(sum_rd + r * dim + d, dim - d);
  for (int64_t j = 0; j < num_keys; ++j) {
    const Vf value = widen_n(static_cast<const T*>(v_j[j]) + d, dim - d);
    for (int r = 0; r < kRows; ++r) sum[r] = fma(splat(p_rj[r * AttentionSplit::kKeys + j]), value, sum[r]);
  }
  for (int r = 0; r < kRows; ++r) store_n(sum_rd + r * dim + d, sum[r], dim - d);
}

template <class T>
void score_any_rows(int64_t num_rows, const float* const* q_r, const void* const* k_j, int64_t num_keys,
                    int64_t dim, float* score_rj) {
  switch (num_rows) {
    case 1:
      return score_rows<1, T>(q_r, k_j, num_keys, dim, score_rj);
    case 2:
      return score_rows<2, T>(q_r, k_j, num_keys, dim, score_rj);
    case 3:
      return score_rows<3, T>(q_r, k_j, num_keys, dim, score_rj);
    default:
      return score_rows<kRowTile, T>(q_r, k_j, num_keys, dim, score_rj);
  }
}

template <class T>
void value_any_rows(int64_t num_rows, const float* p_rj, const void* const* v_j, int64_t num_keys,
                    int64_t dim, float* sum_rd) {
  switch (num_rows) {
    case 1:
      return value_rows<1, T>(p_rj, v_j, num_keys, dim, sum_rd);
    case 2:
      return value_rows<2, T>(p_rj, v_j, num_keys, dim, sum_rd);
    case 3:
      return value_rows<3, T>(p_rj, v_j, num_keys, dim, sum_rd);
    default:
      return value_rows<kRowTile, T>(p_rj, v_j, num_keys, dim, sum_rd);
  }
}

GH_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Keys or values of the split.
struct Side {
  const void* const* row_j;
  const float* const* scale_j;
  const uint16_t* const* tail_j;
  int64_t dim, tail_dim;
};
GH_INLINE Side key_side(const AttentionSplit& a) {
  return {a.k_j, a.k_scale_j, a.k_tail_j, a.k_dim, a.tail_dim};
}
GH_INLINE Side value_side(const AttentionSplit& a) { return {a.v_j, a.v_scale_j, a.k_tail_j, a.v_dim, 0}; }

void widen_bf16(const uint16_t* from, int64_t dim, float* to) {
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) store(to + d, load_bf16(from + d));
  if (d < dim) store_n(to + d, load_bf16_n(from + d, dim - d), dim - d);
}

template <KvElement kElement>
GH_INLINE Vf load_codes(const uint8_t* p) {
  return kElement == KvElement::e4m3 ? load_e4m3(p) : load_int8(p);
}
template <KvElement kElement>
GH_INLINE Vf load_codes_n(const uint8_t* p, int64_t n) {
  return kElement == KvElement::e4m3 ? load_e4m3_n(p, n) : load_int8_n(p, n);
}
template <KvElement kElement>
void widen_codes(const uint8_t* from, const float* scale_g, int64_t dim, float* to) {
  for (int64_t begin = 0; begin < dim; begin += AttentionSplit::kScaled, ++scale_g) {
    const int64_t end = smaller(begin + AttentionSplit::kScaled, dim);
    const Vf scale = splat(kElement == KvElement::e4m3 ? *scale_g / kE4m3Unit : *scale_g);
    int64_t d = begin;
    for (; d + kLanes <= end; d += kLanes) store(to + d, load_codes<kElement>(from + d) * scale);
    if (d < end) store_n(to + d, load_codes_n<kElement>(from + d, end - d) * scale, end - d);
  }
}

// Rows [begin, begin + n) as floats in the block, with their addresses.
template <KvElement kElement>
void widen_block(const Side& side, int64_t begin, int64_t n, float* block_jd, const void** address_j) {
  for (int64_t j = 0; j < n; ++j) {
    float* to = block_jd + j * side.dim;
    if constexpr (kElement == KvElement::bf16) {
      widen_bf16(static_cast<const uint16_t*>(side.row_j[begin + j]), side.dim, to);
    } else {
      const int64_t code_dim = side.dim - side.tail_dim;
      widen_codes<kElement>(static_cast<const uint8_t*>(side.row_j[begin + j]), side.scale_j[begin + j],
                            code_dim, to);
      widen_bf16(side.tail_j[begin + j], side.tail_dim, to + code_dim);
    }
    address_j[j] = to;
  }
}

// Asks for the keys of the next block and the values of this one.
GH_INLINE void fetch_ahead(const AttentionSplit& a, int64_t next_keys, int64_t values) {
  const int64_t element_bytes = a.element == KvElement::f32 ? 4 : a.element == KvElement::bf16 ? 2 : 1;
  for (int64_t j = next_keys; j < smaller(next_keys + AttentionSplit::kBlockKeys, a.num_keys); ++j)
    fetch_row(a.k_j[j], (a.k_dim - a.tail_dim) * element_bytes);
  if (a.v_j[0] == a.k_j[0]) return;
  for (int64_t j = values; j < smaller(values + AttentionSplit::kBlockKeys, a.num_keys); ++j)
    fetch_row(a.v_j[j], a.v_dim * element_bytes);
}

// Whether rows of kElement are widened to T, a block at a time, before they are used.
template <class T, KvElement kElement>
constexpr bool kWiden = sizeof(T) == 4 && kElement != KvElement::f32;

template <class T, KvElement kElement>
void scores(const AttentionSplit& a) {
  const void* address_j[AttentionSplit::kBlockKeys];
  for (int64_t begin = 0; begin < a.num_keys; begin += AttentionSplit::kBlockKeys) {
    const int64_t n = smaller(AttentionSplit::kBlockKeys, a.num_keys - begin);
    const void* const* k_j = a.k_j + begin;
    fetch_ahead(a, begin + AttentionSplit::kBlockKeys, begin);
    if constexpr (kWiden<T, kElement>) {
      widen_block<kElement>(key_side(a), begin, n, a.block_jd, address_j);
      k_j = address_j;
    }
    for (int64_t r = 0; r < a.num_rows; r += kRowTile) {
      const int64_t num_rows = smaller(kRowTile, a.num_rows - r);
      const int64_t seen = smaller(n, a.visible_r[r + num_rows - 1] - begin);
      if (seen > 0)
        score_any_rows<T>(num_rows, a.q_r + r, k_j, seen, a.k_dim,
                          a.score_rj + r * AttentionSplit::kKeys + begin);
    }
  }
}

// Scores become p = exp(score * scale - max); past what the row sees, zero up to a whole vector.
void softmax_row(float scale, int64_t visible, float* score_j, float* max_out, float* denominator) {
  const int64_t padded = (visible + kLanes - 1) / kLanes * kLanes;
  for (int64_t j = visible; j < padded; ++j) score_j[j] = -__builtin_inff();
  Vf max_v = splat(-__builtin_inff());
  for (int64_t j = 0; j < padded; j += kLanes) {
    const Vf score = load(score_j + j) * splat(scale);
    store(score_j + j, score);
    max_v = max(score, max_v);
  }
  *max_out = reduce_max(max_v);
  const Vf shift = splat(*max_out);
  Vf sum = zero();
  for (int64_t j = 0; j < padded; j += kLanes) {
    const Vf p = exp(load(score_j + j) - shift);
    store(score_j + j, p);
    sum = sum + p;
  }
  *denominator = reduce_add(sum);
}

template <class T, KvElement kElement>
void weigh_values(const AttentionSplit& a) {
  const void* address_j[AttentionSplit::kBlockKeys];
  for (int64_t i = 0; i < a.num_rows * a.v_dim; ++i) a.sum_rd[i] = 0;
  for (int64_t begin = 0; begin < a.num_keys; begin += AttentionSplit::kBlockKeys) {
    const int64_t n = smaller(AttentionSplit::kBlockKeys, a.num_keys - begin);
    const void* const* v_j = a.v_j + begin;
    if constexpr (kWiden<T, kElement>) {
      widen_block<kElement>(value_side(a), begin, n, a.block_jd, address_j);
      v_j = address_j;
    }
    for (int64_t r = 0; r < a.num_rows; r += kRowTile) {
      const int64_t num_rows = smaller(kRowTile, a.num_rows - r);
      const float* p_rj = a.score_rj + r * AttentionSplit::kKeys + begin;
      // What all rows of the tile see goes through the tile; what only later rows see, row by row.
      int64_t common = smaller(n, a.visible_r[r] - begin);
      if (common < 0) common = 0;
      if (common > 0) value_any_rows<T>(num_rows, p_rj, v_j, common, a.v_dim, a.sum_rd + r * a.v_dim);
      for (int64_t i = 1; i < num_rows; ++i) {
        const int64_t seen = smaller(n, a.visible_r[r + i] - begin);
        if (seen > common)
          value_rows<1, T>(p_rj + i * AttentionSplit::kKeys + common, v_j + common, seen - common, a.v_dim,
                           a.sum_rd + (r + i) * a.v_dim);
      }
    }
  }
}

template <class T, KvElement kElement>
void attend(const AttentionSplit& a) {
  scores<T, kElement>(a);
  for (int64_t r = 0; r < a.num_rows; ++r)
    softmax_row(a.scale, a.visible_r[r], a.score_rj + r * AttentionSplit::kKeys, a.max_r + r,
                a.denominator_r + r);
  weigh_values<T, kElement>(a);
}

}  // namespace

void attention_split(const AttentionSplit& a) {
  switch (a.element) {
    case KvElement::f32:
      return attend<float, KvElement::f32>(a);
    case KvElement::bf16:
      // Widening once pays when three row tiles or more read the same keys (two: 10% slower than widening
      // twice).
      if (a.num_rows > 2 * kRowTile) return attend<float, KvElement::bf16>(a);
      return attend<uint16_t, KvElement::bf16>(a);
    case KvElement::e4m3:
      return attend<float, KvElement::e4m3>(a);
    case KvElement::int8:
      return attend<float, KvElement::int8>(a);
  }
}

// (sum, max, denominator) of the splits so far takes in the next split's.
void attention_merge(const float* part_d, float part_max, float part_denominator, int64_t dim, float* sum_d,
                     float* max_io, float* denominator_io) {
  const float max_both = *max_io > part_max ? *max_io : part_max;
  const Vf keep = exp(splat(*max_io - max_both)), take = exp(splat(part_max - max_both));
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes)
    store(sum_d + d, fma(load(part_d + d), take, load(sum_d + d) * keep));
  if (d < dim) {
    const int64_t n = dim - d;
    store_n(sum_d + d, fma(load_n(part_d + d, n), take, load_n(sum_d + d, n) * keep), n);
  }
  *denominator_io = *denominator_io * keep[0] + part_denominator * take[0];
  *max_io = max_both;
}

void attention_finish(float denominator, int64_t dim, float* sum_d) {
  const float inverse = 1.0f / denominator;
  for (int64_t d = 0; d < dim; ++d) sum_d[d] *= inverse;
}

}  // namespace guildhall::GH_ISA_NS
