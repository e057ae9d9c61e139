// few_rows.cuh: products with few rows of x, bound by the bytes of W: W is read once, in 16-byte pieces,
// straight into tensor-core fragments. W's rows stand where a fragment has its 16 rows and x's where it has
// its 8 columns. Both are permuted alike along k, so that a lane's piece of 8 neighbours fills two fragments.
// x goes in as the sum of two bf16, which keeps 16 bits of it. W is bf16, or e4m3 codes (uint8_t), which are
// exact in bf16; the sums of each 128 of k are multiplied by their block's scale.
#pragma once

#include <type_traits>

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"

namespace guildhall {

inline constexpr int kTileN = 16;     // rows of W per block
inline constexpr int kTileT = 8;      // rows of x per fragment
inline constexpr int kMostWarps = 8;  // of a block: they share K, and their sums are added in order
inline constexpr int kMostThreads = kMostWarps * kWarp;
inline constexpr int kPiecesAhead = 4;  // loads of W in flight per lane and row
template <class W>
inline constexpr int kPieceK = 16 / static_cast<int>(sizeof(W));  // neighbours in 16 bytes
template <class W>
inline constexpr int kStepK = 4 * kPieceK<W>* kPiecesAhead;

// Warps for sums over K: of W's shape only, so that a row's bits do not depend on the batch.
template <class W>
int warps_for(int64_t num_k) {
  const int64_t steps = (num_k + kStepK<W> - 1) / kStepK<W>;
  return static_cast<int>(steps < 1 ? 1 : steps < kMostWarps ? steps : kMostWarps);
}

struct Piece {  // 16 bytes: 8 neighbours of bf16, or 16 codes
  uint32_t pair[4];
};

// What nobody reads again: it leaves the nearest cache to x.
__device__ inline Piece load_once(const void* from) {
  Piece piece;
#ifdef GUILDHALL_CUDA_EMULATED
  std::memcpy(&piece, from, sizeof piece);
#else
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(piece.pair[0]), "=r"(piece.pair[1]), "=r"(piece.pair[2]), "=r"(piece.pair[3])
               : "l"(from));
#endif
  return piece;
}

__device__ inline uint32_t bits_of(bf16 x) { return x.bits; }
__device__ inline uint32_t bits_of(uint8_t code) { return code; }

// Elements [k, k + kPieceK) of a row of W; zeros from num_k on. kAligned: the row and num_k are multiples of
// 16 bytes.
template <bool kAligned, class W>
__device__ Piece load_weights(const W* row, int64_t k, int64_t num_k) {
  if constexpr (kAligned) {
    return k < num_k ? load_once(row + k) : Piece{};
  } else {
    constexpr int kPerWord = 4 / static_cast<int>(sizeof(W));
    Piece piece = {};
    GH_UNROLL
    for (int i = 0; i < kPieceK<W>; ++i)
      if (k + i < num_k) piece.pair[i / kPerWord] |= bits_of(row[k + i]) << (i % kPerWord * 32 / kPerWord);
    return piece;
  }
}

// Elements [8 * octet, 8 * octet + 8) of a piece, as bf16.
template <class W>
__device__ Piece as_bf16(const Piece& piece, int octet) {
  Piece wide = piece;
  if constexpr (std::is_same_v<W, uint8_t>) {
    GH_UNROLL
    for (int i = 0; i < 4; ++i) wide.pair[i] = e4m3_pair_to_bf16(piece.pair[2 * octet + i / 2], i % 2);
  }
  return wide;
}

// Elements [k, k + 8) of a row of x, split so that high + low is x but for its last 8 bits.
template <bool kAligned>
__device__ void load_split(const float* row, int64_t k, int64_t num_k, Piece& high, Piece& low) {
  float x[8] = {};
  if constexpr (kAligned) {
    if (k < num_k) {
      const Pack<float, 4> first = load_pack<4>(row + k), second = load_pack<4>(row + k + 4);
      GH_UNROLL
      for (int i = 0; i < 4; ++i) x[i] = first.v[i], x[i + 4] = second.v[i];
    }
  } else {
    for (int i = 0; i < 8; ++i)
      if (k + i < num_k) x[i] = row[k + i];
  }
  GH_UNROLL
  for (int i = 0; i < 4; ++i) {
    high.pair[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    low.pair[i] = pack_bf16(x[2 * i] - low_bf16(high.pair[i]), x[2 * i + 1] - high_bf16(high.pair[i]));
  }
}

// A matrix [N,K], or rows of it from where a block of scales begins.
template <class W>
struct FewRowsMatrix {
  const W* data;

  FewRowsMatrix() = default;
  GH_HOST_DEVICE explicit FewRowsMatrix(const WeightView& w) : data(static_cast<const W*>(w.data)) {}
  __device__ float scale(int64_t, int64_t, int64_t) const { return 1; }
};
template <>
struct FewRowsMatrix<uint8_t> {
  const uint8_t* data;
  const float* scale_bb;

  FewRowsMatrix() = default;
  GH_HOST_DEVICE explicit FewRowsMatrix(const WeightView& w)
      : data(static_cast<const uint8_t*>(w.data)), scale_bb(w.scale_bb) {}
  __device__ float scale(int64_t n, int64_t k, int64_t num_k) const {
    return scale_bb[n / kFp8BlockSize * fp8_scale_stride(num_k) + k / kFp8BlockSize];
  }
};

// What a block multiplies: rows [n, n + kTileN) of kMatrices matrices [N,K] with rows [0, num_t) of x.
template <class W, int kMatrices>
struct FewRows {
  FewRowsMatrix<W> w[kMatrices];
  int64_t num_n, num_k, n;
  const float* x;
  int64_t x_stride, num_t;  // num_t <= kTilesT * kTileT
};

// What a warp puts into shared memory: [kMatrices, kTileN, kTilesT * kTileT].
template <int kMatrices, int kTilesT>
inline constexpr int kFewRowsSums = kMatrices* kTileN* kTilesT* kTileT;

// Adds the products of eight elements of each piece i to the sums.
template <class W, int kMatrices, int kTilesT, bool kAligned>
__device__ void multiply_piece(const FewRows<W, kMatrices>& f,
                               const Piece (&weights)[kMatrices][2][kPiecesAhead], int i, int octet,
                               int64_t step, FragmentC (&sum)[kMatrices][kTilesT]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  Piece upper[kMatrices], lower[kMatrices];
  GH_UNROLL
  for (int m = 0; m < kMatrices; ++m) {
    upper[m] = as_bf16<W>(weights[m][0][i], octet);
    lower[m] = as_bf16<W>(weights[m][1][i], octet);
  }
  GH_UNROLL
  for (int tile = 0; tile < kTilesT; ++tile) {
    const int64_t row = tile * kTileT + g;
    Piece high = {}, low = {};
    if (row < f.num_t)
      load_split<kAligned>(f.x + row * f.x_stride, step + (i * 4 + t) * kPieceK<W> + octet * 8, f.num_k, high,
                           low);
    GH_UNROLL
    for (int m = 0; m < kMatrices; ++m) GH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int at = 2 * half;
      const FragmentA a = {upper[m].pair[at], lower[m].pair[at], upper[m].pair[at + 1],
                           lower[m].pair[at + 1]};
      mma(sum[m][tile], a, {high.pair[at], high.pair[at + 1]});
      mma(sum[m][tile], a, {low.pair[at], low.pair[at + 1]});
    }
  }
}

// sum += part times the scale of the block that holds k; then part is zero.
template <class W, int kMatrices, int kTilesT>
__device__ void scale_part(const FewRows<W, kMatrices>& f, int64_t k, FragmentC (&part)[kMatrices][kTilesT],
                           FragmentC (&sum)[kMatrices][kTilesT]) {
  GH_UNROLL
  for (int m = 0; m < kMatrices; ++m) {
    const float scale = f.w[m].scale(f.n, k, f.num_k);
    GH_UNROLL
    for (int tile = 0; tile < kTilesT; ++tile) {
      GH_UNROLL
      for (int r = 0; r < 4; ++r) sum[m][tile].r[r] += part[m][tile].r[r] * scale;
      part[m][tile] = {};
    }
  }
}

// One warp's part of the sums over K, for all matrices and rows.
template <class W, int kMatrices, int kTilesT, bool kAligned>
__device__ void few_rows_part(const FewRows<W, kMatrices>& f, FragmentC (&sum)[kMatrices][kTilesT]) {
  constexpr bool kScaled = std::is_same_v<W, uint8_t>;
  constexpr int kPiece = kPieceK<W>, kOctets = kPiece / 8, kStep = kStepK<W>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  FragmentC part[kMatrices][kTilesT] = {};  // of one block of scales
  for (int64_t step = int64_t{warp} * kStep; step < f.num_k; step += int64_t{num_warps} * kStep) {
    Piece weights[kMatrices][2][kPiecesAhead];
    GH_UNROLL
    for (int m = 0; m < kMatrices; ++m) GH_UNROLL
    for (int half = 0; half < 2; ++half) GH_UNROLL
    for (int i = 0; i < kPiecesAhead; ++i) {
      const int64_t n = f.n + g + half * 8;  // rows beyond N: the last one, whose result is not stored
      weights[m][half][i] = load_weights<kAligned>(f.w[m].data + (n < f.num_n ? n : f.num_n - 1) * f.num_k,
                                                   step + (i * 4 + t) * kPiece, f.num_k);
    }
    GH_UNROLL
    for (int i = 0; i < kPiecesAhead; ++i) {
      GH_UNROLL
      for (int octet = 0; octet < kOctets; ++octet)
        multiply_piece<W, kMatrices, kTilesT, kAligned>(f, weights, i, octet, step, kScaled ? part : sum);
      if constexpr (kScaled) {
        const int64_t block = (step + i * 4 * kPiece) / kFp8BlockSize * kFp8BlockSize;
        if ((i + 1) * 4 * kPiece % kFp8BlockSize == 0 && block < f.num_k) scale_part(f, block, part, sum);
      }
    }
  }
}

// Calls store(i, t, sums of each matrix) once per element of the block's result.
template <class W, int kMatrices, int kTilesT, bool kAligned, class Store>
__device__ void few_rows(const FewRows<W, kMatrices>& f, Store store) {
  constexpr int kSums = kFewRowsSums<kMatrices, kTilesT>, kRowsT = kTilesT * kTileT;
  GH_DYNAMIC_SHARED(float, part);  // [warps, kMatrices, kTileN, kRowsT]
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  FragmentC sum[kMatrices][kTilesT] = {};
  few_rows_part<W, kMatrices, kTilesT, kAligned>(f, sum);
  GH_UNROLL
  for (int m = 0; m < kMatrices; ++m) GH_UNROLL
  for (int tile = 0; tile < kTilesT; ++tile) GH_UNROLL
  for (int r = 0; r < 4; ++r) {
    const int i = lane / 4 + r / 2 * 8, t = tile * kTileT + lane % 4 * 2 + r % 2;
    part[warp * kSums + (m * kTileN + i) * kRowsT + t] = sum[m][tile].r[r];
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < kTileN * kRowsT; at += static_cast<int>(blockDim.x)) {
    const int i = at / kRowsT, t = at % kRowsT;
    if (f.n + i >= f.num_n || t >= f.num_t) continue;
    float total[kMatrices] = {};
    for (int w = 0; w < num_warps; ++w) GH_UNROLL
    for (int m = 0; m < kMatrices; ++m) total[m] += part[w * kSums + m * kTileN * kRowsT + at];
    store(i, t, total);
  }
  __syncthreads();  // the shared memory is free again
}

template <int kMatrices, int kTilesT>
size_t few_rows_shared_bytes(int num_warps) {
  return static_cast<size_t>(num_warps * kFewRowsSums<kMatrices, kTilesT>) * sizeof(float);
}

}  // namespace guildhall
