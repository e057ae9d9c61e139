// kv_write_cuda.cu: the step's keys and values go to their pages, a token per block or more.
#include "base/check.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/kv_codes.h"
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

  explicit Slots(const AttentionBatch& batch, const KvPages& pages)
      : sequence_t(batch.sequence_t.data()),
        position_t(batch.position_t.data()),
        block_table_sb(batch.block_table_sb),
        num_pages(pages.num_pages),
        block_size(pages.block_size) {}
  // Counted from the pool's first; -1: the token writes nothing.
  __device__ int64_t of(int64_t t) const {
    const int64_t sequence = sequence_t[t], position = position_t[t];
    if (sequence < 0) return -1;
    const int64_t page = block_table_sb(sequence, position / block_size);
    if (page < 0 || page >= num_pages) return -1;
    return page * block_size + position % block_size;
  }
};

__device__ inline float convert_to(float x, float) { return x; }
__device__ inline bf16 convert_to(float x, bf16) { return to_bf16(x); }

// blockIdx.z: 0 keys, 1 values.
template <class T, int N>
__global__ void kv_write_kernel(Side<T> keys, Side<T> values, Slots slots) {
  const Side<T>& side = blockIdx.z == 0 ? keys : values;
  const int64_t t = blockIdx.x, slot = slots.of(t);
  if (slot < 0) return;
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
  const Slots slots(batch, pages);
  const bool wide = side_fits<kWide>(keys) && side_fits<kWide>(values);
  RowGrid g = row_grid(
      k_thd.dim0, pages.num_kv_heads * std::max(keys.x_thd.dim2, values.x_thd.dim2) / (wide ? kWide : 1));
  g.grid.z = has_values ? 2 : 1;
  launch(wide ? kv_write_kernel<T, kWide> : kv_write_kernel<T, 1>, g.grid, g.threads, 0, stream, keys, values,
         slots);
}

struct CodeSide {
  View3<const float> x_thd;
  void* pages;
  KvPageLayout layout;
};

__device__ inline uint8_t to_int8(float x, float inverse) {
  return static_cast<uint8_t>(static_cast<int8_t>(rintf(fminf(fmaxf(x * inverse, -127.0f), 127.0f))));
}

constexpr unsigned kCodeThreads = 128;

// blockIdx.z: 0 keys, 1 values. A warp per group of codes.
__global__ void kv_write_codes_kernel(CodeSide keys, CodeSide values, Slots slots, bool is_int8) {
  const CodeSide& side = blockIdx.z == 0 ? keys : values;
  const int64_t t = blockIdx.x, slot = slots.of(t);
  if (slot < 0) return;
  const int64_t num_heads = side.x_thd.dim1, groups = side.layout.groups(), code_dim = side.layout.code_dim;
  const int64_t rows_per_page = slots.block_size * num_heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kEach = static_cast<int>(kKvGroup) / kWarp;
  for (int64_t i = threadIdx.x / kWarp; i < num_heads * groups; i += kCodeThreads / kWarp) {
    const int64_t head = i / groups, g = i % groups, first = g * kKvGroup + lane;
    const KvCodeRow to = kv_code_row(side.pages, side.layout, rows_per_page, slot * num_heads + head);
    const float* from = side.x_thd.at(t, head);
    float x[kEach], amax = 0, infinite = 0;
    for (int j = 0; j < kEach; ++j) {
      x[j] = first + j * kWarp < code_dim ? from[first + j * kWarp] : 0;
      amax = fmaxf(amax, fabsf(x[j]));
      if (!is_finite(x[j])) infinite = 1;
    }
    const float unit = fmaxf(warp_max(amax) / (is_int8 ? 127.0f : 448.0f), 0x1p-126f), inverse = 1 / unit;
    const bool poisoned = warp_max(infinite) > 0;
    for (int j = 0; j < kEach; ++j) {
      if (first + j * kWarp >= code_dim) break;
      to.code[first + j * kWarp] = poisoned  ? uint8_t{0}
                                   : is_int8 ? to_int8(x[j], inverse)
                                             : to_e4m3(x[j], inverse);
    }
    if (lane == 0) to.scale[g] = poisoned ? std::bit_cast<float>(0x7fc00000u) : unit;
  }
  const int64_t tail_dim = side.layout.tail_dim;
  for (int64_t i = threadIdx.x; i < num_heads * tail_dim; i += kCodeThreads) {
    const int64_t head = i / tail_dim, d = i % tail_dim;
    kv_code_row(side.pages, side.layout, rows_per_page, slot * num_heads + head).tail[d] =
        to_bf16(side.x_thd.at(t, head)[code_dim + d]);
  }
}

void write_codes(CudaStream stream, View3<const float> k_thd, View3<const float> v_thd,
                 const AttentionBatch& batch, const KvPages& pages) {
  const bool has_values = pages.v != pages.k;
  const CodeSide keys{k_thd, pages.k, key_layout(pages)};
  const CodeSide values = has_values ? CodeSide{v_thd, pages.v, value_layout(pages)} : keys;
  launch(kv_write_codes_kernel, dim3(static_cast<unsigned>(k_thd.dim0), 1, has_values ? 2 : 1), kCodeThreads,
         0, stream, keys, values, Slots(batch, pages), pages.dtype == DType::int8);
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
  if (is_kv_codes(pages.dtype))
    write_codes(stream, k_thd, v_thd, batch, pages);
  else if (pages.dtype == DType::f32)
    write<float>(stream, k_thd, v_thd, batch, pages);
  else
    write<bf16>(stream, k_thd, v_thd, batch, pages);
}

}  // namespace guildhall
