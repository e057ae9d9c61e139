// paged_attention_prefill_cuda.cu: sequences with several tokens in the step. A block takes a tile of query
// rows (heads of neighbouring tokens) through their whole context: FlashAttention-2 (Dao 2023) with a warp
// per 16 rows where heads are narrow, else the wide kernel of decode with more rows.
#include "kernels/paged_attention_wide.cuh"

namespace guildhall {
namespace {

// Calls attend(rows) for each stretch of one sequence among the block's tokens. Blocks start with the last
// tokens, whose contexts are the longest.
template <class Attend>
__device__ void for_stretches(const AttentionArgs& args, int64_t tile_rows, Attend attend) {
  const RowTiling tiling(args.group(), tile_rows);
  const int64_t tile = gridDim.x - 1 - blockIdx.x;
  const int64_t begin = args.token_begin + tile * tiling.tokens;
  const int64_t end = min(begin + tiling.tokens, args.token_begin + args.num_tokens);
  QueryRows rows = tiling.rows(blockIdx.y, args.group());
  for (int64_t t = begin; t < end; t += rows.num_tokens) {
    rows.token_begin = t;
    rows.num_tokens = 1;
    while (t + rows.num_tokens < end && args.sequence_t[t + rows.num_tokens] == args.sequence_t[t])
      ++rows.num_tokens;
    if (!args.lone(t)) attend(rows);
  }
}

__device__ int64_t context_of(const AttentionArgs& args, const QueryRows& rows) {
  return args.position_t[rows.token_begin + rows.num_tokens - 1] + 1;
}

using Wide = WideShape<8, 2, 5, 8, 32>;

template <bool kCodes>
__global__ void __launch_bounds__(Wide::kThreads) wide_kernel(AttentionArgs args) {
  GH_DYNAMIC_SHARED(unsigned char, memory);
  WideShared<Wide, kCodes> shared(args.pages);
  shared.place(args, memory);
  for_stretches(args, Wide::kRows, [&](const QueryRows& rows) {
    WideAttention<Wide, kCodes> attention(args, rows, shared);
    attention.run(0, context_of(args, rows));
    attention.for_results([&](int row, int column, float a, float b) {
      float* out = args.out_thd.at(rows.token(row), rows.head(row)) + column;
      out[0] = a / shared.sum_r[row];
      out[1] = b / shared.sum_r[row];
    });
    __syncthreads();  // shared memory is free for the next stretch
  });
}

// The narrow kernel's block.
constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRows = kWarps * 16, kKeys = 64;
constexpr int kSteps = 8, kTilesV = 16;  // k_dim and v_dim to 128

// One warp's 16 query rows; scores and probabilities never leave its registers.
class NarrowRows {
 public:
  __device__ NarrowRows(const AttentionArgs& args, const QueryRows& rows) : args_(args) {
    for (FragmentC& tile : out_) tile = {};
    GH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = warp_ * 16 + lane_ / 4 + half * 8;
      const bool used = row < rows.size();
      const float* q = used ? args.q_thd.at(rows.token(row), rows.head(row)) : nullptr;
      out_row_[half] = used ? args.out_thd.at(rows.token(row), rows.head(row)) : nullptr;
      visible_[half] = used ? args.position_t[rows.token(row)] + 1 : 0;
      GH_UNROLL
      for (int i = 0; i < 2 * kSteps; ++i) {
        const int64_t at = i * 8 + lane_ % 4 * 2;
        q_[i / 2].r[i % 2 * 2 + half] = used && at < args.pages.k_dim ? pack_bf16(q[at], q[at + 1]) : 0;
      }
    }
  }

  // Keys and values of positions [tile, tile + kKeys) in shared memory; zeros beyond the context.
  __device__ void attend(int64_t tile, const bf16* k, int k_pitch, const bf16* v, int v_pitch) {
    FragmentC score[kKeys / 8] = {};
    k += (lane_ % 8 + lane_ / 16 * 8) * k_pitch + lane_ / 8 % 2 * 8;
    GH_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      if (i >= k_pitch / 16) break;
      GH_UNROLL
      for (int n = 0; n < kKeys; n += 16) {
        uint32_t keys[4];
        load_matrices(keys, k + n * k_pitch + i * 16);
        mma(score[n / 8], q_[i], {keys[0], keys[1]});
        mma(score[n / 8 + 1], q_[i], {keys[2], keys[3]});
      }
    }
    softmax(tile, score);
    v += lane_ % 16 * v_pitch + lane_ / 16 * 8;
    GH_UNROLL
    for (int key = 0; key < kKeys; key += 16) {
      const FragmentC &a = score[key / 8],
                      &b = score[key / 8 + 1];  // now probabilities, laid out as A wants them
      const FragmentA weights = {pack_bf16(a.r[0], a.r[1]), pack_bf16(a.r[2], a.r[3]),
                                 pack_bf16(b.r[0], b.r[1]), pack_bf16(b.r[2], b.r[3])};
      GH_UNROLL
      for (int j = 0; j < kTilesV; j += 2) {
        if (j * 8 >= args_.pages.v_dim) break;
        uint32_t values[4];
        load_matrices_transposed(values, v + key * v_pitch + j * 8);
        mma(out_[j], weights, {values[0], values[1]});
        mma(out_[j + 1], weights, {values[2], values[3]});
      }
    }
  }

  __device__ void store() {
    GH_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = sum_[half];
      for (int lanes = 1; lanes < 4; lanes *= 2) sum += __shfl_xor_sync(kFullWarp, sum, lanes);
      if (out_row_[half] == nullptr) continue;
      GH_UNROLL
      for (int j = 0; j < kTilesV; ++j) {
        const int column = j * 8 + lane_ % 4 * 2;
        if (column >= args_.pages.v_dim) break;
        out_row_[half][column] = out_[j].r[2 * half] / sum;
        out_row_[half][column + 1] = out_[j].r[2 * half + 1] / sum;
      }
    }
  }

 private:
  // Scores become probabilities relative to the row's largest score so far; out and sum follow.
  __device__ void softmax(int64_t tile, FragmentC (&score)[kKeys / 8]) {
    const float scale = args_.scale * kLog2E;
    GH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t visible = visible_[half] - tile;
      float largest = largest_[half];
      GH_UNROLL
      for (int i = 0; i < kKeys / 4; ++i) {
        float& s = score[i / 2].r[2 * half + i % 2];
        s = i / 2 * 8 + lane_ % 4 * 2 + i % 2 < visible ? s * scale : -INFINITY;
        largest = fmaxf(largest, s);
      }
      for (int lanes = 1; lanes < 4; lanes *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, lanes));
      const float rescale = exp2_from(largest_[half], largest);
      largest_[half] = largest;
      sum_[half] *= rescale;
      GH_UNROLL
      for (FragmentC& tile_out : out_) {
        tile_out.r[2 * half] *= rescale;
        tile_out.r[2 * half + 1] *= rescale;
      }
      GH_UNROLL
      for (int i = 0; i < kKeys / 4; ++i) {
        float& s = score[i / 2].r[2 * half + i % 2];
        s = exp2_from(s, largest);
        sum_[half] += s;
      }
    }
  }

  const AttentionArgs& args_;
  const int lane_ = static_cast<int>(threadIdx.x) % kWarp, warp_ = static_cast<int>(threadIdx.x) / kWarp;
  // Of rows lane / 4 and lane / 4 + 8.
  float* out_row_[2];
  int64_t visible_[2];
  float largest_[2] = {-INFINITY, -INFINITY}, sum_[2] = {};  // sums: this lane's keys only
  FragmentA q_[kSteps];
  FragmentC out_[kTilesV];
};

template <bool kCodes>
using NarrowTiles = KeyTiles<kWarps, kKeys, kCodes>;

template <bool kCodes>
__global__ void __launch_bounds__(kThreads) narrow_kernel(AttentionArgs args) {
  GH_DYNAMIC_SHARED(unsigned char, memory);
  NarrowTiles<kCodes> tiles(args.pages);
  tiles.place(args, memory);
  for_stretches(args, kRows, [&](const QueryRows& rows) {
    const int64_t context = context_of(args, rows);
    tiles.start(rows, 0, context);
    NarrowRows mine(args, rows);
    for (int64_t first = 0; first < context; first += kKeys) {
      const auto tile = tiles.next();
      mine.attend(first, tile.k, tiles.k_pitch, tile.v, tiles.v_pitch == 0 ? tiles.k_pitch : tiles.v_pitch);
    }
    mine.store();
    __syncthreads();  // shared memory is free for the next stretch
  });
}

dim3 prefill_grid(const AttentionArgs& args, int64_t tile_rows) {
  const RowTiling tiling(args.q_thd.dim1 / args.pages.num_kv_heads, tile_rows);
  return dim3(static_cast<unsigned>((args.num_tokens + tiling.tokens - 1) / tiling.tokens),
              static_cast<unsigned>(tiling.head_tiles * args.pages.num_kv_heads));
}

}  // namespace

void run_wide_prefill(CudaStream stream, const AttentionArgs& args) {
  const dim3 grid = prefill_grid(args, Wide::kRows);
  if (is_kv_codes(args.pages.dtype))
    launch(wide_kernel<true>, grid, Wide::kThreads, WideShared<Wide, true>(args.pages).bytes(), stream, args);
  else
    launch(wide_kernel<false>, grid, Wide::kThreads, WideShared<Wide, false>(args.pages).bytes(), stream,
           args);
}

bool fits_narrow_prefill(const AttentionArgs& args) {
  return args.pages.k_dim <= kSteps * 16 && args.pages.v_dim <= kTilesV * 8;
}

void run_narrow_prefill(CudaStream stream, const AttentionArgs& args) {
  const dim3 grid = prefill_grid(args, kRows);
  if (is_kv_codes(args.pages.dtype))
    launch(narrow_kernel<true>, grid, kThreads, NarrowTiles<true>(args.pages).bytes(), stream, args);
  else
    launch(narrow_kernel<false>, grid, kThreads, NarrowTiles<false>(args.pages).bytes(), stream, args);
}

}  // namespace guildhall
