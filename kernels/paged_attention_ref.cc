// paged_attention_ref.cc: attention by its definition, one query head at a time, in double; and the cache's
// writes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/paged_attention.h"

namespace guildhall {
namespace {

// Index of the first element of (token's position, kv head), in a cache of `stride` elements per kv head.
int64_t element(const AttentionBatch& batch, const KvPages& pages, int64_t t, int64_t position,
                int64_t kv_head, int64_t stride) {
  const int64_t page = batch.block_table_sb(batch.sequence_t[t], position / pages.block_size);
  const int64_t slot = page * pages.block_size + position % pages.block_size;
  return (slot * pages.num_kv_heads + kv_head) * stride;
}

float read(const void* data, DType dtype, int64_t i) {
  return dtype == DType::f32 ? static_cast<const float*>(data)[i]
                             : to_float(static_cast<const bf16*>(data)[i]);
}

void write(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::f32)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<bf16*>(data)[i] = to_bf16(value);
}

}  // namespace

void kv_write_ref(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages) {
  for (int64_t t = 0; t < k_thd.dim0; ++t) {
    for (int64_t head = 0; head < pages.num_kv_heads; ++head) {
      const int64_t k_at = element(batch, pages, t, batch.position_t[t], head, pages.k_dim);
      for (int64_t d = 0; d < pages.k_dim; ++d) write(pages.k, pages.dtype, k_at + d, k_thd.at(t, head)[d]);
      if (pages.v == pages.k) continue;
      const int64_t v_at = element(batch, pages, t, batch.position_t[t], head, pages.v_stride);
      for (int64_t d = 0; d < pages.v_dim; ++d) write(pages.v, pages.dtype, v_at + d, v_thd.at(t, head)[d]);
    }
  }
}

void paged_attention_ref(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                         float scale, View3<float> out_thd) {
  const int64_t group = q_thd.dim1 / pages.num_kv_heads;
  for (int64_t t = 0; t < q_thd.dim0; ++t) {
    const int64_t context = batch.position_t[t] + 1;
    for (int64_t head = 0; head < q_thd.dim1; ++head) {
      std::vector<double> p(static_cast<size_t>(context), 0.0);
      for (int64_t j = 0; j < context; ++j) {
        const int64_t k_at = element(batch, pages, t, j, head / group, pages.k_dim);
        for (int64_t d = 0; d < pages.k_dim; ++d)
          p[j] += static_cast<double>(q_thd.at(t, head)[d]) * read(pages.k, pages.dtype, k_at + d);
        p[j] *= scale;
      }
      const double max = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& score : p) sum += score = std::exp(score - max);
      for (int64_t d = 0; d < pages.v_dim; ++d) {
        double value = 0;
        for (int64_t j = 0; j < context; ++j)
          value += p[j] *
                   read(pages.v, pages.dtype, element(batch, pages, t, j, head / group, pages.v_stride) + d);
        out_thd.at(t, head)[d] = static_cast<float>(value / sum);
      }
    }
  }
}

}  // namespace guildhall
