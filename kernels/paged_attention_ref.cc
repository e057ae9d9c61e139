// paged_attention_ref.cc: attention by its definition, one query head at a time, in double; and the cache's
// writes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kv_codes.h"
#include "kernels/paged_attention.h"

namespace guildhall {
namespace {

// Keys or values of the cache.
struct Side {
  void* data;
  int64_t dim, stride;
  KvPageLayout layout;
};
Side keys(const KvPages& pages) { return {pages.k, pages.k_dim, pages.k_dim, key_layout(pages)}; }
Side values(const KvPages& pages) { return {pages.v, pages.v_dim, pages.v_stride, value_layout(pages)}; }

int64_t row_of(const AttentionBatch& batch, const KvPages& pages, int64_t t, int64_t position,
               int64_t kv_head) {
  const int64_t page = batch.block_table_sb(batch.sequence_t[t], position / pages.block_size);
  return (page * pages.block_size + position % pages.block_size) * pages.num_kv_heads + kv_head;
}

void read(const KvPages& pages, const Side& side, int64_t row, std::vector<float>& x) {
  x.resize(static_cast<size_t>(side.dim));
  if (is_kv_codes(pages.dtype)) {
    const KvCodeRow from = kv_code_row(side.data, side.layout, pages.block_size * pages.num_kv_heads, row);
    const auto code_dim = static_cast<size_t>(side.layout.code_dim);
    from_kv_codes_ref(pages.dtype, {from.code, code_dim},
                      {from.scale, static_cast<size_t>(side.layout.groups())}, {x.data(), code_dim});
    for (size_t d = code_dim; d < x.size(); ++d) x[d] = to_float(from.tail[d - code_dim]);
    return;
  }
  for (int64_t d = 0; d < side.dim; ++d) {
    const int64_t i = row * side.stride + d;
    x[d] = pages.dtype == DType::f32 ? static_cast<const float*>(side.data)[i]
                                     : to_float(static_cast<const bf16*>(side.data)[i]);
  }
}

void write(const KvPages& pages, const Side& side, int64_t row, const float* x) {
  if (is_kv_codes(pages.dtype)) {
    const KvCodeRow to = kv_code_row(side.data, side.layout, pages.block_size * pages.num_kv_heads, row);
    const auto code_dim = static_cast<size_t>(side.layout.code_dim);
    to_kv_codes_ref(pages.dtype, {x, code_dim}, {to.code, code_dim},
                    {to.scale, static_cast<size_t>(side.layout.groups())});
    for (int64_t d = 0; d < side.layout.tail_dim; ++d) to.tail[d] = to_bf16(x[side.layout.code_dim + d]);
    return;
  }
  for (int64_t d = 0; d < side.dim; ++d) {
    const int64_t i = row * side.stride + d;
    if (pages.dtype == DType::f32)
      static_cast<float*>(side.data)[i] = x[d];
    else
      static_cast<bf16*>(side.data)[i] = to_bf16(x[d]);
  }
}

}  // namespace

void kv_write_ref(View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages) {
  for (int64_t t = 0; t < k_thd.dim0; ++t) {
    for (int64_t head = 0; head < pages.num_kv_heads; ++head) {
      const int64_t row = row_of(batch, pages, t, batch.position_t[t], head);
      write(pages, keys(pages), row, k_thd.at(t, head));
      if (pages.v != pages.k) write(pages, values(pages), row, v_thd.at(t, head));
    }
  }
}

void paged_attention_ref(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages,
                         float scale, View3<float> out_thd) {
  const int64_t group = q_thd.dim1 / pages.num_kv_heads;
  std::vector<float> x;
  for (int64_t t = 0; t < q_thd.dim0; ++t) {
    const int64_t context = batch.position_t[t] + 1;
    for (int64_t head = 0; head < q_thd.dim1; ++head) {
      std::vector<double> p(static_cast<size_t>(context), 0.0);
      for (int64_t j = 0; j < context; ++j) {
        read(pages, keys(pages), row_of(batch, pages, t, j, head / group), x);
        for (int64_t d = 0; d < pages.k_dim; ++d) p[j] += static_cast<double>(q_thd.at(t, head)[d]) * x[d];
        p[j] *= scale;
      }
      const double max = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& score : p) sum += score = std::exp(score - max);
      std::vector<double> value(static_cast<size_t>(pages.v_dim), 0.0);
      for (int64_t j = 0; j < context; ++j) {
        read(pages, values(pages), row_of(batch, pages, t, j, head / group), x);
        for (int64_t d = 0; d < pages.v_dim; ++d) value[d] += p[j] * x[d];
      }
      for (int64_t d = 0; d < pages.v_dim; ++d) out_thd.at(t, head)[d] = static_cast<float>(value[d] / sum);
    }
  }
}

}  // namespace guildhall
