// paged_attention_wide.cuh: one block against one stretch of one sequence's context, for few query rows and
// wide heads (absorbed MLA: keys of 576, values of 512). The warps share the width: of the scores each
// computes its part of the sum over k_dim, with its part of q kept in registers; of the values each owns some
// columns. So every key and value is read from shared memory once. Online softmax as in FlashAttention-2 (Dao
// 2023).
#pragma once

#include "kernels/paged_attention_tiles.cuh"

namespace guildhall {

template <int kWarps_, int kTilesM_, int kSteps_, int kTilesV_, int kKeys_>
struct WideShape {
  static constexpr int kWarps = kWarps_;
  static constexpr int kTilesM = kTilesM_;  // of 16 query rows
  static constexpr int kSteps = kSteps_;    // of 16 along k_dim, per warp
  static constexpr int kTilesV = kTilesV_;  // of 8 value columns, per warp; even
  static constexpr int kKeys = kKeys_;      // per tile
  static constexpr int kThreads = kWarps * kWarp, kRows = 16 * kTilesM;
  static constexpr int kMaxK = kWarps * kSteps * 16, kMaxV = kWarps * kTilesV * 8;
  static constexpr int kPitch =
      kKeys + 8;  // of scores and of probabilities; their rows start in different banks
  static constexpr int kThreadsPerRow = kThreads / kRows;
  static_assert(kThreadsPerRow == 8 && kTilesV % 2 == 0 && kKeys % (2 * kWarps) == 0);
};

// A block's dynamic shared memory.
template <class S, bool kCodes>
struct WideShared {
  KeyTiles<S::kWarps, S::kKeys, kCodes> tiles;

  GH_HOST_DEVICE explicit WideShared(const KvPages& pages) : tiles(pages) {}
  GH_HOST_DEVICE size_t bytes() const {
    return tiles.bytes() + S::kWarps * S::kRows * S::kPitch * sizeof(float) +
           S::kRows * S::kPitch * sizeof(bf16) + 3 * S::kRows * sizeof(float);
  }

  float* score_wrj;  // [kWarps, kRows, kPitch], each warp's part
  bf16* p_rj;        // [kRows, kPitch]
  float *rescale_r, *max_r, *sum_r;

  __device__ void place(const AttentionArgs& args, unsigned char* memory) {
    tiles.place(args, memory);
    score_wrj = reinterpret_cast<float*>(memory + tiles.bytes());
    p_rj = reinterpret_cast<bf16*>(score_wrj + S::kWarps * S::kRows * S::kPitch);
    rescale_r = reinterpret_cast<float*>(p_rj + S::kRows * S::kPitch);
    max_r = rescale_r + S::kRows;
    sum_r = max_r + S::kRows;
  }
};

template <class S, bool kCodes>
class WideAttention {
 public:
  __device__ WideAttention(const AttentionArgs& args, const QueryRows& rows, WideShared<S, kCodes>& shared)
      : args_(args), rows_(rows), shared_(shared) {}

  // Attends to positions [begin, end). Then out_ holds the sums of p v, and shared.max_r and sum_r are there
  // for all threads.
  __device__ void run(int64_t begin, int64_t end) {
    shared_.tiles.start(rows_, begin, end);
    load_queries();
    for (auto& tiles : out_)
      for (FragmentC& tile : tiles) tile = {};
    const int row = thread_ / S::kThreadsPerRow;
    const int64_t visible = row < rows_.size() ? args_.position_t[rows_.token(row)] + 1 : 0;
    float largest = -INFINITY, sum = 0;
    for (int64_t first = begin; first < end; first += S::kKeys) {
      const auto tile = shared_.tiles.next();
      scores(tile.k);
      __syncthreads();
      softmax(row, min(visible, end) - first, largest, sum);
      __syncthreads();
      add_values(tile.v);
    }
    for (int lanes = 1; lanes < S::kThreadsPerRow; lanes *= 2) sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    if (thread_ % S::kThreadsPerRow == 0) {
      shared_.max_r[row] = largest;
      shared_.sum_r[row] = sum;
    }
    __syncthreads();
  }

  // Calls body(row, column, two neighbouring sums) for this thread's part of the result.
  template <class Body>
  __device__ void for_results(Body body) const {
    GH_UNROLL
    for (int m = 0; m < S::kTilesM; ++m) GH_UNROLL
    for (int j = 0; j < S::kTilesV; ++j) {
      const int row = m * 16 + lane_ / 4, column = (warp_ * S::kTilesV + j) * 8 + lane_ % 4 * 2;
      if (column >= args_.pages.v_dim) continue;
      if (row < rows_.size()) body(row, column, out_[m][j].r[0], out_[m][j].r[1]);
      if (row + 8 < rows_.size()) body(row + 8, column, out_[m][j].r[2], out_[m][j].r[3]);
    }
  }

 private:
  __device__ void load_queries() {
    GH_UNROLL
    for (int m = 0; m < S::kTilesM; ++m) GH_UNROLL
    for (int i = 0; i < S::kSteps; ++i) GH_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int row = m * 16 + lane_ / 4 + r % 2 * 8;
      const int64_t at = (warp_ + i * S::kWarps) * 16 + lane_ % 4 * 2 + r / 2 * 8;
      const bool valid = row < rows_.size() && at < args_.pages.k_dim;  // k_dim is even
      const float* q = valid ? args_.q_thd.at(rows_.token(row), rows_.head(row)) + at : nullptr;
      q_[m][i].r[r] = valid ? pack_bf16(q[0], q[1]) : 0;
    }
  }

  // This warp's part of q k for all rows and keys of the tile.
  __device__ void scores(const bf16* k) {
    const int pitch = shared_.tiles.k_pitch, num_steps = pitch / 16;
    k += (lane_ % 8 + lane_ / 16 * 8) * pitch + lane_ / 8 % 2 * 8;
    GH_UNROLL
    for (int n = 0; n < S::kKeys; n += 16) {
      FragmentC part[S::kTilesM][2] = {};
      GH_UNROLL
      for (int i = 0; i < S::kSteps; ++i) {
        const int step = warp_ + i * S::kWarps;
        if (step >= num_steps) break;
        uint32_t keys[4];
        load_matrices(keys, k + n * pitch + step * 16);
        GH_UNROLL
        for (int m = 0; m < S::kTilesM; ++m) {
          mma(part[m][0], q_[m][i], {keys[0], keys[1]});
          mma(part[m][1], q_[m][i], {keys[2], keys[3]});
        }
      }
      GH_UNROLL
      for (int m = 0; m < S::kTilesM; ++m) GH_UNROLL
      for (int half = 0; half < 2; ++half) GH_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int row = m * 16 + lane_ / 4 + r / 2 * 8, key = n + half * 8 + lane_ % 4 * 2 + r % 2;
        shared_.score_wrj[(warp_ * S::kRows + row) * S::kPitch + key] = part[m][half].r[r];
      }
    }
  }

  // Eight threads per row: adds up the warps' parts in order, and turns scores into probabilities relative to
  // the largest score so far. `visible`: how many of the tile's keys the row sees (may be negative).
  __device__ void softmax(int row, int64_t visible, float& largest, float& sum) {
    constexpr int kEach = S::kKeys / S::kThreadsPerRow;
    const float scale = args_.scale * kLog2E;
    float score[kEach], tile_max = -INFINITY;
    GH_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int key = thread_ % S::kThreadsPerRow + i * S::kThreadsPerRow;
      float dot = 0;
      GH_UNROLL
      for (int w = 0; w < S::kWarps; ++w) dot += shared_.score_wrj[(w * S::kRows + row) * S::kPitch + key];
      score[i] = key < visible ? dot * scale : -INFINITY;
      tile_max = fmaxf(tile_max, score[i]);
    }
    for (int lanes = 1; lanes < S::kThreadsPerRow; lanes *= 2)
      tile_max = fmaxf(tile_max, __shfl_xor_sync(kFullWarp, tile_max, lanes));
    const float before = largest;
    largest = fmaxf(largest, tile_max);
    const float rescale = exp2_from(before, largest);
    sum *= rescale;
    GH_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const bf16 p = to_bf16(exp2_from(score[i], largest));
      sum += to_float(p);  // what the values are weighted with
      shared_.p_rj[row * S::kPitch + thread_ % S::kThreadsPerRow + i * S::kThreadsPerRow] = p;
    }
    if (thread_ % S::kThreadsPerRow == 0) shared_.rescale_r[row] = rescale;
  }

  // out = out * rescale + p v, for this warp's columns.
  __device__ void add_values(const bf16* v) {
    GH_UNROLL
    for (int m = 0; m < S::kTilesM; ++m) {
      const float upper = shared_.rescale_r[m * 16 + lane_ / 4],
                  lower = shared_.rescale_r[m * 16 + lane_ / 4 + 8];
      GH_UNROLL
      for (FragmentC& tile : out_[m]) {
        tile.r[0] *= upper, tile.r[1] *= upper;
        tile.r[2] *= lower, tile.r[3] *= lower;
      }
    }
    const int v_pitch = shared_.tiles.v_pitch == 0 ? shared_.tiles.k_pitch : shared_.tiles.v_pitch;
    const int first = warp_ * S::kTilesV * 8;
    v += lane_ % 16 * v_pitch + lane_ / 16 * 8 + first;
    const bf16* p = shared_.p_rj + lane_ % 16 * S::kPitch + lane_ / 16 * 8;
    GH_UNROLL
    for (int key = 0; key < S::kKeys; key += 16) {
      FragmentA weights[S::kTilesM];
      GH_UNROLL
      for (int m = 0; m < S::kTilesM; ++m) load_matrices(weights[m].r, p + m * 16 * S::kPitch + key);
      GH_UNROLL
      for (int j = 0; j < S::kTilesV; j += 2) {
        if (first + j * 8 >= args_.pages.v_dim) break;
        uint32_t values[4];
        load_matrices_transposed(values, v + key * v_pitch + j * 8);
        GH_UNROLL
        for (int m = 0; m < S::kTilesM; ++m) {
          mma(out_[m][j], weights[m], {values[0], values[1]});
          mma(out_[m][j + 1], weights[m], {values[2], values[3]});
        }
      }
    }
  }

  const AttentionArgs& args_;
  const QueryRows& rows_;
  WideShared<S, kCodes>& shared_;
  const int thread_ = static_cast<int>(threadIdx.x), lane_ = thread_ % kWarp, warp_ = thread_ / kWarp;
  FragmentA q_[S::kTilesM][S::kSteps];
  FragmentC out_[S::kTilesM][S::kTilesV];
};

}  // namespace guildhall
