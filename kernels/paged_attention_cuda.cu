// paged_attention_cuda.cu: attention on the device: which kernel takes which tokens, the workspace of decode,
// and the plain kernel for what tensor cores do not take.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/paged_attention_cuda.cuh"

namespace guildhall {
namespace {

// Partial results beyond this are computed in waves of tokens.
constexpr int64_t kMaxPartialBytes = int64_t{256} << 20;

int64_t partial_bytes_per_token(int64_t num_heads, int64_t v_dim, int64_t max_context) {
  return max_splits(max_context) * num_heads * (v_dim + 2) * static_cast<int64_t>(sizeof(float));
}

constexpr int kPlainThreads = 128;
static_assert(kPlainThreads == kAttentionSplit);

// Keys or values, a row of them at a time, element by element.
template <class T>
class PlainRows {
 public:
  __device__ PlainRows(const KvPages&, const KvPageLayout&, void* data, int64_t stride)
      : data_(static_cast<const T*>(data)), stride_(stride) {}
  __device__ auto row(int64_t row) const {
    return [x = data_ + row * stride_](int64_t d) { return to_float(x[d]); };
  }

 private:
  const T* data_;
  int64_t stride_;
};
template <>
class PlainRows<uint8_t> {  // codes
 public:
  __device__ PlainRows(const KvPages& pages, const KvPageLayout& layout, void* data, int64_t)
      : layout_(layout),
        data_(data),
        rows_per_page_(pages.block_size * pages.num_kv_heads),
        is_int8_(pages.dtype == DType::int8) {}
  __device__ auto row(int64_t row) const {
    return [x = kv_code_row(data_, layout_, rows_per_page_, row), code_dim = layout_.code_dim,
            is_int8 = is_int8_](int64_t d) {
      if (d >= code_dim) return to_float(x.tail[d - code_dim]);
      const float scale = x.scale[d / kKvGroup];
      return is_int8 ? static_cast<float>(static_cast<int8_t>(x.code[d])) * scale
                     : from_e4m3(x.code[d], scale);
    };
  }

 private:
  KvPageLayout layout_;
  void* data_;
  int64_t rows_per_page_;
  bool is_int8_;
};

// One block per token and query head: a thread per key, then a thread per value column.
template <class T>
__global__ void plain_kernel(AttentionArgs args) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t t = args.token_begin + blockIdx.x, head = blockIdx.y;
  const KvPages& pages = args.pages;
  GH_DYNAMIC_SHARED(float, q);  // [k_dim], then out [v_dim], then p
  float* out = q + pages.k_dim;
  float* p = out + pages.v_dim;
  const float* q_row = args.q_thd.at(t, head);
  for (int64_t d = thread; d < pages.k_dim; d += kPlainThreads) q[d] = q_row[d] * args.scale * kLog2E;
  for (int64_t d = thread; d < pages.v_dim; d += kPlainThreads) out[d] = 0;  // column d stays with its thread
  const int64_t context = args.position_t[t] + 1, sequence = args.sequence_t[t],
                kv_head = head / args.group();
  const auto slot_of = [&](int64_t position) {
    const int64_t page = args.block_table_sb(sequence, position / pages.block_size);
    return (page * pages.block_size + position % pages.block_size) * pages.num_kv_heads + kv_head;
  };
  const PlainRows<T> all_keys(pages, key_layout(pages), pages.k, pages.k_dim),
      all_values(pages, value_layout(pages), pages.v, pages.v_stride);
  float largest = -INFINITY, sum = 0;
  for (int64_t begin = 0; begin < context; begin += kPlainThreads) {
    const int64_t keys = min(context - begin, int64_t{kPlainThreads});
    __syncthreads();
    float score = -INFINITY;
    if (thread < keys) {
      const auto key = all_keys.row(slot_of(begin + thread));
      score = 0;
      for (int64_t d = 0; d < pages.k_dim; ++d) score += q[d] * key(d);
    }
    p[thread] = score;
    __syncthreads();
    float tile_max = -INFINITY;
    for (int i = thread % kWarp; i < kPlainThreads; i += kWarp) tile_max = fmaxf(tile_max, p[i]);
    const float before = largest;
    largest = fmaxf(largest, warp_max(tile_max));
    __syncthreads();
    p[thread] = exp2_from(score, largest);
    __syncthreads();
    float tile_sum = 0;
    for (int i = thread % kWarp; i < kPlainThreads; i += kWarp) tile_sum += p[i];
    const float rescale = exp2_from(before, largest);
    sum = sum * rescale + warp_sum(tile_sum);
    for (int64_t d = thread; d < pages.v_dim; d += kPlainThreads) {
      float value = out[d] * rescale;
      for (int64_t j = 0; j < keys; ++j) value += p[j] * all_values.row(slot_of(begin + j))(d);
      out[d] = value;
    }
  }
  for (int64_t d = thread; d < pages.v_dim; d += kPlainThreads)
    args.out_thd.at(t, head)[d] = sum == 0 ? 0.0f : out[d] / sum;
}

bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

int64_t paged_attention_cuda_workspace(int64_t num_tokens, int64_t num_heads, const KvPages& pages,
                                       int64_t max_context) {
  if (max_splits(max_context) == 1) return 0;
  const int64_t per_token = partial_bytes_per_token(num_heads, pages.v_dim, max_context);
  return std::min(num_tokens, std::max(kMaxPartialBytes / per_token, int64_t{1})) * per_token;
}

bool fits_tensor_cores(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const bool one_buffer = pages.v == pages.k;
  if (!aligned16(pages.k) || !aligned16(pages.v) || pages.k_dim > (one_buffer ? 576 : 256) ||
      pages.v_dim > (one_buffer ? 512 : 256))
    return false;
  if (is_kv_codes(pages.dtype)) {
    const KvPageLayout keys = key_layout(pages);
    return keys.code_dim % 16 == 0 && keys.tail_dim % 8 == 0 && pages.v_dim % 16 == 0;
  }
  return pages.dtype == DType::bf16 && pages.k_dim % 8 == 0 && pages.v_dim % 8 == 0 &&
         pages.v_stride % 8 == 0;
}

void run_plain_attention(CudaStream stream, const AttentionArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.num_tokens), static_cast<unsigned>(args.q_thd.dim1));
  const auto shared_bytes =
      static_cast<size_t>(args.pages.k_dim + args.pages.v_dim + kPlainThreads) * sizeof(float);
  const auto kernel = is_kv_codes(args.pages.dtype)     ? plain_kernel<uint8_t>
                      : args.pages.dtype == DType::bf16 ? plain_kernel<bf16>
                                                        : plain_kernel<float>;
  launch(kernel, grid, kPlainThreads, shared_bytes, stream, args);
}

void paged_attention_cuda(CudaStream stream, View3<const float> q_thd, const AttentionBatch& batch,
                          const KvPages& pages, float scale, std::span<std::byte> workspace,
                          View3<float> out_thd) {
  const AttentionBounds& bounds = batch.bounds;
  GH_CHECK(q_thd.dim2 == pages.k_dim && out_thd.dim2 == pages.v_dim && q_thd.dim1 % pages.num_kv_heads == 0);
  GH_CHECK(out_thd.dim0 == q_thd.dim0 && out_thd.dim1 == q_thd.dim1);
  GH_CHECK(static_cast<int64_t>(batch.sequence_t.size()) == q_thd.dim0 &&
           batch.position_t.size() == batch.sequence_t.size());
  if (q_thd.dim0 == 0) return;
  GH_CHECK(bounds.lone.end <= q_thd.dim0 && bounds.others.end <= q_thd.dim0);
  GH_CHECK(!bounds.lone.empty() || !bounds.others.empty());
  AttentionArgs args{.q_thd = q_thd,
                     .out_thd = out_thd,
                     .sequence_t = batch.sequence_t.data(),
                     .position_t = batch.position_t.data(),
                     .block_table_sb = batch.block_table_sb,
                     .pages = pages,
                     .scale = scale,
                     .only_lone_tokens = bounds.others.empty(),
                     .token_begin = 0,
                     .num_tokens = q_thd.dim0};
  if (!fits_tensor_cores(args)) return run_plain_attention(stream, args);

  if (!bounds.others.empty()) {
    args.token_begin = bounds.others.begin;
    args.num_tokens = bounds.others.end - bounds.others.begin;
    (fits_narrow_prefill(args) ? run_narrow_prefill : run_wide_prefill)(stream, args);
  }
  if (bounds.lone.empty()) return;
  args.num_splits = max_splits(bounds.max_context);
  int64_t wave = bounds.lone.end - bounds.lone.begin;
  if (args.num_splits > 1) {
    const int64_t per_token = partial_bytes_per_token(q_thd.dim1, pages.v_dim, bounds.max_context);
    wave = std::min(wave, static_cast<int64_t>(workspace.size()) / per_token);
    GH_CHECK(wave > 0 && aligned16(workspace.data()));
    args.partial = reinterpret_cast<float*>(workspace.data());
    args.partial_max_sum = args.partial + wave * args.num_splits * q_thd.dim1 * pages.v_dim;
  }
  for (int64_t t = bounds.lone.begin; t < bounds.lone.end; t += wave) {
    args.token_begin = t;
    args.num_tokens = std::min(wave, bounds.lone.end - t);
    run_split_attention(stream, args);
  }
}

}  // namespace guildhall
