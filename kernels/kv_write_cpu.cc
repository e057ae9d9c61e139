// kv_write_cpu.cc: the step's keys and values go to their pages; tokens are shared among the team.
#include <algorithm>

#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/paged_attention.h"
#include "kernels/parallel_rows.h"

namespace guildhall {
namespace {

void write_row(const float* x, int64_t n, DType dtype, void* data, int64_t element) {
  if (dtype == DType::f32)
    std::copy_n(x, n, static_cast<float*>(data) + element);
  else
    to_bf16_cpu({x, static_cast<size_t>(n)}, static_cast<bf16*>(data) + element);
}

}  // namespace

void kv_write_cpu(Team& team, View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages) {
  const bool has_values = pages.v != pages.k;
  GH_CHECK(k_thd.dim0 == static_cast<int64_t>(batch.position_t.size()) && k_thd.dim1 == pages.num_kv_heads &&
           k_thd.dim2 == pages.k_dim);
  GH_CHECK(!has_values ||
           (v_thd.dim0 == k_thd.dim0 && v_thd.dim1 == k_thd.dim1 && v_thd.dim2 == pages.v_dim));
  parallel_rows(
      team, k_thd.dim0, pages.num_kv_heads * (pages.k_dim + pages.v_dim), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t position = batch.position_t[t];
          const int64_t page = batch.block_table_sb(batch.sequence_t[t], position / pages.block_size);
          GH_CHECK(page >= 0 && page < pages.num_pages);
          const int64_t slot = page * pages.block_size + position % pages.block_size;
          for (int64_t head = 0; head < pages.num_kv_heads; ++head) {
            const int64_t row = slot * pages.num_kv_heads + head;
            write_row(k_thd.at(t, head), pages.k_dim, pages.dtype, pages.k, row * pages.k_dim);
            if (has_values)
              write_row(v_thd.at(t, head), pages.v_dim, pages.dtype, pages.v, row * pages.v_stride);
          }
        }
      });
}

}  // namespace guildhall
