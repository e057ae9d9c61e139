// kv_write_cuda.cu: the step's keys and values go to their pages, a token per block or more.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/paged_attention.h"

namespace guildhall {
namespace {

// Keys or values: where they come from and where they go.
template <class T>
struct Side {
  View3<const float> x_thd;
  T* pages = nullptr;
  int64_t head_stride = 0;  // elements from one kv head's row in a slot to the next
};

struct Slots {
  const int32_t* sequence_t;
  const int32_t* position_t;
  View2<const int32_t> block_table_sb;
  int64_t num_pages, block_size;
};

__device__ inline float convert_to(float x, float) { return x; }
__device__ inline bf16 convert_to(float x, bf16) { return to_bf16(x); }

// blockIdx.z: 0 keys, 1 values.
template <class T, int N>
__global__ void kv_write_kernel(Side<T> keys, Side<T> values, Slots slots) {
  const Side<T>& side = blockIdx.z == 0 ? keys : values;
  const int64_t t = blockIdx.x, sequence = slots.sequence_t[t], position = slots.position_t[t];
  if (sequence < 0) return;
  const int64_t page = slots.block_table_sb(sequence, position / slots.block_size);
  if (page < 0 || page >= slots.num_pages) return;
  const int64_t slot = page * slots.block_size + position % slots.block_size;
  const int64_t num_heads = side.x_thd.dim1;
  const auto packs_per_head = static_cast<int32_t>(side.x_thd.dim2 / N);
  for_packs(num_heads * packs_per_head, [&](int64_t i) {
    const int64_t head = static_cast<int32_t>(i) / packs_per_head;
    const int64_t d = int64_t{static_cast<int32_t>(i) % packs_per_head} * N;
    const Pack<float, N> x = load_pack<N>(side.x_thd.at(t, head) + d);
    Pack<T, N> y;
    for (int j = 0; j < N; ++j) y.v[j] = convert_to(x.v[j], T{});
    store_pack(side.pages + (slot * num_heads + head) * side.head_stride + d, y);
  });
}

template <int N, class T>
bool side_fits(const Side<T>& side) {
  return packs_fit<N>(side.x_thd) && packs_fit<N>(side.pages, side.head_stride);
}

template <class T>
void write(CudaStream stream, View3<const float> k_thd, View3<const float> v_thd, const AttentionBatch& batch,
           const KvPages& pages) {
  constexpr int kWide = 4;
  const bool has_values = pages.v != pages.k;
  const Side<T> keys{k_thd, static_cast<T*>(pages.k), pages.k_dim};
  const Side<T> values = has_values ? Side<T>{v_thd, static_cast<T*>(pages.v), pages.v_stride} : keys;
  const Slots slots{batch.sequence_t.data(), batch.position_t.data(), batch.block_table_sb, pages.num_pages,
                    pages.block_size};
  const bool wide = side_fits<kWide>(keys) && side_fits<kWide>(values);
  RowGrid g = row_grid(
      k_thd.dim0, pages.num_kv_heads * std::max(keys.x_thd.dim2, values.x_thd.dim2) / (wide ? kWide : 1));
  g.grid.z = has_values ? 2 : 1;
  launch(wide ? kv_write_kernel<T, kWide> : kv_write_kernel<T, 1>, g.grid, g.threads, 0, stream, keys, values,
         slots);
}

}  // namespace

void kv_write_cuda(CudaStream stream, View3<const float> k_thd, View3<const float> v_thd,
                   const AttentionBatch& batch, const KvPages& pages) {
  GH_CHECK(k_thd.dim0 == static_cast<int64_t>(batch.position_t.size()) && k_thd.dim1 == pages.num_kv_heads &&
           k_thd.dim2 == pages.k_dim && batch.sequence_t.size() == batch.position_t.size());
  GH_CHECK(pages.v == pages.k ||
           (v_thd.dim0 == k_thd.dim0 && v_thd.dim1 == k_thd.dim1 && v_thd.dim2 == pages.v_dim));
  GH_CHECK(k_thd.dim1 * std::max(pages.k_dim, pages.v_dim) <= INT32_MAX);
  if (k_thd.dim0 == 0) return;
  if (pages.dtype == DType::f32)
    write<float>(stream, k_thd, v_thd, batch, pages);
  else
    write<bf16>(stream, k_thd, v_thd, batch, pages);
}

}  // namespace guildhall
