// few_rows.cuh: products with few rows of x, bound by the bytes of W: W is read once, in 16-byte pieces,
// straight into tensor-core fragments. W's rows stand where a fragment has its 16 rows and x's where it has
// its 8 columns. Both are permuted alike along k, so that a lane's piece of 8 neighbours fills two fragments.
// x goes in as the sum of two bf16, which keeps 16 bits of it.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"

namespace guildhall {

inline constexpr int kTileN = 16;     // rows of W per block
inline constexpr int kTileT = 8;      // rows of x per fragment
inline constexpr int kMostWarps = 8;  // of a block: they share K, and their sums are added in order
inline constexpr int kMostThreads = kMostWarps * kWarp;
inline constexpr int kPiecesAhead = 4;  // loads of W in flight per lane and row
inline constexpr int kStepK = 32 * kPiecesAhead;

// Warps for sums over K: of W's shape only, so that a row's bits do not depend on the batch.
inline int warps_for(int64_t num_k) {
  const int64_t steps = (num_k + kStepK - 1) / kStepK;
  return static_cast<int>(steps < 1 ? 1 : steps < kMostWarps ? steps : kMostWarps);
}

struct Piece {  // 8 neighbours of bf16
  uint32_t pair[4];
};

// 16 bytes that nobody reads again: they leave the nearest cache to x.
__device__ inline Piece load_once(const bf16* from) {
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

// Elements [k, k + 8) of a row of W; zeros from num_k on. kAligned: the row and num_k are multiples of 16
// bytes.
template <bool kAligned>
__device__ Piece load_weights(const bf16* row, int64_t k, int64_t num_k) {
  if constexpr (kAligned) return k < num_k ? load_once(row + k) : Piece{};
  Piece piece = {};
  for (int i = 0; i < 8; ++i)
    if (k + i < num_k) piece.pair[i / 2] |= uint32_t{row[k + i].bits} << (i % 2 * 16);
  return piece;
}

// The same of a row of x, split so that high + low is x but for its last 8 bits.
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

// What a block multiplies: rows [n, n + kTileN) of kMatrices matrices [N,K] with rows [0, num_t) of x.
template <int kMatrices>
struct FewRows {
  const bf16* w[kMatrices];
  int64_t num_n, num_k, n;
  const float* x;
  int64_t x_stride, num_t;  // num_t <= kTilesT * kTileT
};

// What a warp puts into shared memory: [kMatrices, kTileN, kTilesT * kTileT].
template <int kMatrices, int kTilesT>
inline constexpr int kFewRowsSums = kMatrices* kTileN* kTilesT* kTileT;

// One warp's part of the sums over K, for all matrices and rows.
template <int kMatrices, int kTilesT, bool kAligned>
__device__ void few_rows_part(const FewRows<kMatrices>& f, FragmentC (&sum)[kMatrices][kTilesT]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp, g = lane / 4, t = lane % 4;
  for (int64_t step = int64_t{warp} * kStepK; step < f.num_k; step += int64_t{num_warps} * kStepK) {
    Piece weights[kMatrices][2][kPiecesAhead];
    GH_UNROLL
    for (int m = 0; m < kMatrices; ++m) GH_UNROLL
    for (int half = 0; half < 2; ++half) GH_UNROLL
    for (int i = 0; i < kPiecesAhead; ++i) {
      const int64_t n = f.n + g + half * 8;  // rows beyond N: the last one, whose result is not stored
      weights[m][half][i] = load_weights<kAligned>(f.w[m] + (n < f.num_n ? n : f.num_n - 1) * f.num_k,
                                                   step + i * 32 + t * 8, f.num_k);
    }
    GH_UNROLL
    for (int i = 0; i < kPiecesAhead; ++i) GH_UNROLL
    for (int tile = 0; tile < kTilesT; ++tile) {
      const int64_t row = tile * kTileT + g;
      Piece high = {}, low = {};
      if (row < f.num_t)
        load_split<kAligned>(f.x + row * f.x_stride, step + i * 32 + t * 8, f.num_k, high, low);
      GH_UNROLL
      for (int m = 0; m < kMatrices; ++m) GH_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t* upper = weights[m][0][i].pair + 2 * half;
        const uint32_t* lower = weights[m][1][i].pair + 2 * half;
        const FragmentA a = {upper[0], lower[0], upper[1], lower[1]};
        mma(sum[m][tile], a, {high.pair[2 * half], high.pair[2 * half + 1]});
        mma(sum[m][tile], a, {low.pair[2 * half], low.pair[2 * half + 1]});
      }
    }
  }
}

// Calls store(i, t, sums of each matrix) once per element of the block's result.
template <int kMatrices, int kTilesT, bool kAligned, class Store>
__device__ void few_rows(const FewRows<kMatrices>& f, Store store) {
  constexpr int kSums = kFewRowsSums<kMatrices, kTilesT>, kRowsT = kTilesT * kTileT;
  GH_DYNAMIC_SHARED(float, part);  // [warps, kMatrices, kTileN, kRowsT]
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  FragmentC sum[kMatrices][kTilesT] = {};
  few_rows_part<kMatrices, kTilesT, kAligned>(f, sum);
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
