// paged_attention.h: causal attention over a paged KV cache; one op for GQA and absorbed MLA, prefill and
// decode. MLA (DeepSeek-V2, absorbed) is multi-query attention whose values are the first v_dim elements of
// its keys. Row rule: the context is split every kAttentionSplit positions counted from 0 and the splits are
// merged in order, so that a token's bits do not depend on chunking, batch or block layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/kv_pages.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

inline constexpr int64_t kAttentionSplit = 128;

// What the host knows of a step, for a device's launches.
struct TokenRange {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin == end; }
};
struct AttentionBounds {
  int64_t max_context = 0;  // at least position + 1 of every token
  // A token is lone if neither neighbour is of its sequence (decode). Each range holds all tokens of its
  // kind, and may hold some of the other; if others is empty, all tokens count as lone (a step that is
  // padded).
  TokenRange lone, others;
};
// From the host's copies.
AttentionBounds attention_bounds(std::span<const int32_t> sequence_t, std::span<const int32_t> position_t);

// Which cache positions each token of the step sees. All spans are borrowed for the call.
struct AttentionBatch {
  std::span<const int32_t> sequence_t;  // row of block_table_sb for each token
  std::span<const int32_t> position_t;  // 0-based; token t attends to cache positions [0, position_t[t]]
  View2<const int32_t> block_table_sb;  // page index of each block of each sequence
  AttentionBounds bounds = {};          // for devices only
};

// Stores k [T,kv_heads,k_dim] (and v [T,kv_heads,v_dim]; ignored when pages.v == pages.k) at each token's
// position.
void kv_write_ref(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages);
void kv_write_cpu(Team& team, View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages);
// The same bits; the batch's spans are on the device. A token of a negative sequence (a captured batch's
// padding) or of a page outside the pool writes nothing.
void kv_write_cuda(CudaStream stream, View3<const float> k_thd, View3<const float> v_thd,
                   const AttentionBatch& batch, const KvPages& pages);

// q [T,H,k_dim], out [T,H,v_dim]; H is a multiple of num_kv_heads, query head h reads kv head
// h/(H/num_kv_heads).
void paged_attention_ref(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                         float scale, View3<float> out_thd);
void paged_attention_cpu(Team& team, View3<const float> q_thd, const AttentionBatch& batch,
                         const KvPages& pages, float scale, View3<float> out_thd);

// Bytes of device memory that paged_attention_cuda takes for steps of at most num_tokens lone tokens; 0:
// none. (Many tokens share them in waves.)
int64_t paged_attention_cuda_workspace(int64_t num_tokens, int64_t num_heads, const KvPages& pages,
                                       int64_t max_context);
// batch.bounds is needed. Tokens of a sequence are adjacent, in order, at consecutive positions. A token at
// position -1 is padding: its row becomes 0. Pages of bf16 or codes whose dims fill 16
// bytes go to the tensor cores: q, the probabilities and what codes are worth are rounded to bf16, and a NaN
// of a chunk's later token may reach its earlier ones. Row rule: the bits of a lone token depend on its own
// context only; the others' also on how their chunk was cut.
void paged_attention_cuda(CudaStream stream, View3<const float> q_thd, const AttentionBatch& batch,
                          const KvPages& pages, float scale, std::span<std::byte> workspace,
                          View3<float> out_thd);

}  // namespace guildhall
