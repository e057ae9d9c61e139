// paged_attention.h: causal attention over a paged KV cache; one op for GQA and absorbed MLA, prefill and
// decode. MLA (DeepSeek-V2, absorbed) is multi-query attention whose values are the first v_dim elements of
// its keys. Row rule: the context is split every kAttentionSplit positions counted from 0 and the splits are
// merged in order, so that a token's bits do not depend on chunking, batch or block layout.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/dtype.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

inline constexpr int64_t kAttentionSplit = 128;

// One layer's cache. Element (page, slot, kv_head) of keys starts at
// k + ((page * block_size + slot) * num_kv_heads + kv_head) * k_dim; values likewise with v_stride per kv
// head.
struct KvPages {
  DType dtype = DType::bf16;
  int64_t num_pages = 0, block_size = 0, num_kv_heads = 0;
  int64_t k_dim = 0;     // per head
  int64_t v_dim = 0;     // per head
  int64_t v_stride = 0;  // elements from one kv head's values to the next (== k_dim when values alias keys)
  void* k = nullptr;
  void* v = nullptr;  // MLA: == k
};

// Which cache positions each token of the step sees. All spans are borrowed for the call.
struct AttentionBatch {
  std::span<const int32_t> sequence_t;  // row of block_table_sb for each token
  std::span<const int32_t> position_t;  // 0-based; token t attends to cache positions [0, position_t[t]]
  View2<const int32_t> block_table_sb;  // page index of each block of each sequence
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

}  // namespace guildhall
