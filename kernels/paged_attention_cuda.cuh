// paged_attention_cuda.cuh: what the attention kernels share: their arguments, and which query rows and which
// part of the context a block works on.
#pragma once

#include "kernels/cuda/warp.cuh"
#include "kernels/paged_attention.h"

namespace guildhall {

// The context of a lone token is cut into at most this many splits, so that a long one occupies a device by
// itself.
inline constexpr int64_t kMaxAttentionSplits = 32;

// How much of a context of this length a split covers: a multiple of kAttentionSplit that depends on nothing
// else.
GH_HOST_DEVICE inline int64_t split_length(int64_t context) {
  const int64_t blocks = (context + kAttentionSplit - 1) / kAttentionSplit;
  const int64_t blocks_per_split = (blocks + kMaxAttentionSplits - 1) / kMaxAttentionSplits;
  return (blocks_per_split > 0 ? blocks_per_split : 1) * kAttentionSplit;
}
// An upper bound for contexts of at most this length.
inline int64_t max_splits(int64_t max_context) {
  const int64_t blocks = (max_context + kAttentionSplit - 1) / kAttentionSplit;
  return blocks < 1 ? 1 : blocks < kMaxAttentionSplits ? blocks : kMaxAttentionSplits;
}

// Everything a kernel reads, by value; pointers are the device's.
struct AttentionArgs {
  View3<const float> q_thd;
  View3<float> out_thd;
  const int32_t* sequence_t;
  const int32_t* position_t;
  View2<const int32_t> block_table_sb;
  KvPages pages;
  float scale;
  bool only_lone_tokens;            // all tokens are decode: neighbours need not be compared
  int64_t token_begin, num_tokens;  // of this launch; the views hold the whole step
  // Results of splits, of the launch's tokens: [tokens, splits, H, v_dim] sums of p v, then as many pairs of
  // (max, sum of p). Null: every context is one split, and out is written at once.
  float* partial = nullptr;
  float* partial_max_sum = nullptr;
  int64_t num_splits = 1;

  __device__ int64_t group() const { return q_thd.dim1 / pages.num_kv_heads; }
  // Whether the token is its sequence's only one in this step.
  __device__ bool lone(int64_t t) const {
    return only_lone_tokens || ((t == 0 || sequence_t[t - 1] != sequence_t[t]) &&
                                (t + 1 == q_thd.dim0 || sequence_t[t + 1] != sequence_t[t]));
  }
};

// Query rows that share a sequence and a kv head: row r is head head_begin + r % num_heads of token
// token_begin + r / num_heads.
struct QueryRows {
  int64_t token_begin, num_tokens, head_begin, num_heads, kv_head;

  __device__ int64_t size() const { return num_tokens * num_heads; }
  __device__ int64_t token(int64_t r) const { return token_begin + r / num_heads; }
  __device__ int64_t head(int64_t r) const { return head_begin + r % num_heads; }
};

// How a tile of kRows query rows is filled: with the heads of as many tokens as fit, or with a part of one
// token's.
struct RowTiling {
  int64_t tokens, heads, head_tiles;  // per tile; tiles per kv head

  GH_HOST_DEVICE RowTiling(int64_t group, int64_t rows)
      : tokens(group < rows ? rows / group : 1),
        heads(group < rows ? group : rows),
        head_tiles((group + heads - 1) / heads) {}
  // The heads of tile `i` of all kv heads' tiles; the tokens are the caller's.
  __device__ QueryRows rows(int64_t i, int64_t group) const {
    const int64_t kv_head = i / head_tiles, first = i % head_tiles * heads;
    return {0, 0, kv_head * group + first, min(heads, group - first), kv_head};
  }
};

// 2^x of a score against its row's largest so far; rows that have seen nothing yet have -inf.
__device__ inline float exp2_from(float x, float largest) {
  return largest == -INFINITY ? 0.0f : exp2f(x - largest);
}

inline constexpr float kLog2E = 1.4426950408889634f;

// Starts, on the launch's tokens:
void run_plain_attention(CudaStream stream, const AttentionArgs& args);  // all tokens, any shape and type
bool fits_tensor_cores(const AttentionArgs& args);  // bf16 or codes, dims of whole 16-byte pieces
void run_split_attention(CudaStream stream,
                         const AttentionArgs& args);  // lone tokens, by splits, then merged
void run_wide_prefill(CudaStream stream,
                      const AttentionArgs& args);  // the others, up to k_dim 576, v_dim 512
bool fits_narrow_prefill(const AttentionArgs& args);
void run_narrow_prefill(CudaStream stream,
                        const AttentionArgs& args);  // the others, up to k_dim and v_dim 128

}  // namespace guildhall
