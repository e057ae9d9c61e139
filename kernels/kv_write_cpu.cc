// kv_write_cpu.cc: the step's keys and values go to their pages; tokens are shared among the team.
#include <algorithm>

#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/kv_codes.h"
#include "kernels/paged_attention.h"
#include "kernels/parallel_rows.h"

namespace guildhall {
namespace {

// Keys or values.
struct Side {
  void* data;
  KvPageLayout layout;
  int64_t stride;  // elements from one row to the next; of no meaning for codes
};

void write_row(const float* x, int64_t n, const KvPages& pages, const Side& side, int64_t row) {
  if (pages.dtype == DType::f32) {
    std::copy_n(x, n, static_cast<float*>(side.data) + row * side.stride);
  } else if (pages.dtype == DType::bf16) {
    to_bf16_cpu({x, static_cast<size_t>(n)}, static_cast<bf16*>(side.data) + row * side.stride);
  } else {
    const KvCodeRow to = kv_code_row(side.data, side.layout, pages.block_size * pages.num_kv_heads, row);
    const auto code_dim = static_cast<size_t>(side.layout.code_dim);
    to_kv_codes_cpu(pages.dtype, {x, code_dim}, {to.code, code_dim},
                    {to.scale, static_cast<size_t>(side.layout.groups())});
    to_bf16_cpu({x + code_dim, static_cast<size_t>(side.layout.tail_dim)}, to.tail);
  }
}

}  // namespace

void kv_write_cpu(Team& team, View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
                  const KvPages& pages) {
  const bool has_values = pages.v != pages.k;
  GH_CHECK(k_thd.dim0 == static_cast<int64_t>(batch.position_t.size()) && k_thd.dim1 == pages.num_kv_heads &&
           k_thd.dim2 == pages.k_dim);
  GH_CHECK(!has_values ||
           (v_thd.dim0 == k_thd.dim0 && v_thd.dim1 == k_thd.dim1 && v_thd.dim2 == pages.v_dim));
  const Side keys{pages.k, key_layout(pages), pages.k_dim};
  const Side values{pages.v, value_layout(pages), pages.v_stride};
  parallel_rows(
      team, k_thd.dim0, pages.num_kv_heads * (pages.k_dim + pages.v_dim), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t position = batch.position_t[t];
          const int64_t page = batch.block_table_sb(batch.sequence_t[t], position / pages.block_size);
          GH_CHECK(page >= 0 && page < pages.num_pages);
          const int64_t slot = page * pages.block_size + position % pages.block_size;
          for (int64_t head = 0; head < pages.num_kv_heads; ++head) {
            const int64_t row = slot * pages.num_kv_heads + head;
            write_row(k_thd.at(t, head), pages.k_dim, pages, keys, row);
            if (has_values) write_row(v_thd.at(t, head), pages.v_dim, pages, values, row);
          }
        }
      });
}

}  // namespace guildhall
