// paged_attention_split.h: what paged_attention_cpu.cc hands to the vector code: some query rows against one
// split of one kv head's context. Plain data, all borrowed.
#pragma once

#include <cstdint>

namespace guildhall {

// What keys and values are stored as.
enum class KvElement : uint8_t { f32, bf16, e4m3, int8 };

struct AttentionSplit {
  static constexpr int64_t kKeys = 128;      // the longest split (== kAttentionSplit)
  static constexpr int64_t kBlockKeys = 32;  // keys widened to float at a time, to stay in the nearest cache

  // Inputs. Rows are in order of position: visible_r does not decrease.
  const float* const* q_r;   // [R] -> [k_dim]
  const int32_t* visible_r;  // [R] how many of the split's keys the row sees, in [1, num_keys]
  int64_t num_rows;
  const void* const* k_j;  // [num_keys] -> [k_dim], or codes [k_dim - tail_dim]
  const void* const* v_j;  // [num_keys] -> [v_dim]
  int64_t num_keys;        // in [1, kKeys]
  int64_t k_dim, v_dim;
  KvElement element;
  float scale;
  // Of codes only: a scale per kScaled of them, and the elements of a key that follow its codes, in bf16.
  static constexpr int64_t kScaled = 128;
  const float* const* k_scale_j;
  const float* const* v_scale_j;
  const uint16_t* const* k_tail_j;  // [num_keys] -> [tail_dim]
  int64_t tail_dim;

  // Scratch.
  float* score_rj;  // [R, kKeys]
  float* block_jd;  // [kBlockKeys, max(k_dim, v_dim)]

  // Outputs: each row's sum of p * v with p = exp(score - max), not yet divided by the sum of p.
  float* sum_rd;         // [R, v_dim]
  float* max_r;          // [R]
  float* denominator_r;  // [R]
};

}  // namespace guildhall
