// paged_attention_split_cuda.cu: decode. A lone token's context is cut into splits, each a block's; a second
// kernel merges them in order. Where a split ends depends on the token's own context only, so its bits do not
// depend on the batch.
#include "kernels/paged_attention_wide.cuh"

namespace guildhall {
namespace {

using Narrow = WideShape<4, 1, 4, 4, 64>;  // k_dim to 256, v_dim to 128
using Wide16 = WideShape<4, 1, 9, 16, 32>;
using Wide32 = WideShape<8, 2, 5, 8, 32>;  // for more than 16 heads: a key is read half as often

template <class S, bool kCodes>
__global__ void __launch_bounds__(S::kThreads) split_kernel(AttentionArgs args) {
  const int64_t t = args.token_begin + blockIdx.x, split = blockIdx.z;
  if (!args.lone(t)) return;
  const int64_t context = args.position_t[t] + 1, length = split_length(context), begin = split * length;
  if (begin >= context && split > 0) return;
  QueryRows rows = RowTiling(args.group(), S::kRows).rows(blockIdx.y, args.group());
  rows.token_begin = t;
  rows.num_tokens = 1;
  GH_DYNAMIC_SHARED(unsigned char, memory);
  WideShared<S, kCodes> shared(args.pages);
  shared.place(args, memory);
  WideAttention<S, kCodes> attention(args, rows, shared);
  attention.run(begin, min(begin + length, context));

  if (args.partial == nullptr) {
    attention.for_results([&](int row, int column, float a, float b) {
      const float sum = shared.sum_r[row];
      float* out = args.out_thd.at(t, rows.head(row)) + column;
      out[0] = sum == 0 ? 0.0f : a / sum;
      out[1] = sum == 0 ? 0.0f : b / sum;
    });
    return;
  }
  const int64_t heads = args.q_thd.dim1;
  const int64_t first = (int64_t{blockIdx.x} * args.num_splits + split) * heads + rows.head_begin;
  attention.for_results([&](int row, int column, float a, float b) {
    float* partial = args.partial + (first + row) * args.pages.v_dim + column;
    partial[0] = a;
    partial[1] = b;
  });
  for (int row = static_cast<int>(threadIdx.x); row < rows.size(); row += S::kThreads) {
    args.partial_max_sum[2 * (first + row)] = shared.max_r[row];
    args.partial_max_sum[2 * (first + row) + 1] = shared.sum_r[row];
  }
}

constexpr unsigned kMergeThreads = 128;

__global__ void merge_kernel(AttentionArgs args) {
  const int64_t t = args.token_begin + blockIdx.x, head = blockIdx.y, heads = args.q_thd.dim1;
  if (!args.lone(t)) return;
  const int64_t context = args.position_t[t] + 1, length = split_length(context);
  const int64_t splits = max((context + length - 1) / length, int64_t{1});
  const int64_t first = int64_t{blockIdx.x} * args.num_splits * heads + head;  // split s is `heads` further
  float largest = -INFINITY, sum = 0;
  for (int64_t s = 0; s < splits; ++s)
    largest = fmaxf(largest, args.partial_max_sum[2 * (first + s * heads)]);
  for (int64_t s = 0; s < splits; ++s) {
    const float* max_sum = args.partial_max_sum + 2 * (first + s * heads);
    sum += max_sum[1] * exp2_from(max_sum[0], largest);
  }
  for (int64_t d = threadIdx.x; d < args.pages.v_dim; d += kMergeThreads) {
    float value = 0;
    for (int64_t s = 0; s < splits; ++s)
      value += args.partial[(first + s * heads) * args.pages.v_dim + d] *
               exp2_from(args.partial_max_sum[2 * (first + s * heads)], largest);
    args.out_thd.at(t, head)[d] = sum == 0 ? 0.0f : value / sum;
  }
}

template <class S>
void run_splits(CudaStream stream, const AttentionArgs& args) {
  const int64_t group = args.q_thd.dim1 / args.pages.num_kv_heads;
  const int64_t head_tiles = RowTiling(group, S::kRows).head_tiles * args.pages.num_kv_heads;
  const dim3 grid(static_cast<unsigned>(args.num_tokens), static_cast<unsigned>(head_tiles),
                  static_cast<unsigned>(args.num_splits));
  if (is_kv_codes(args.pages.dtype))
    launch(split_kernel<S, true>, grid, S::kThreads, WideShared<S, true>(args.pages).bytes(), stream, args);
  else
    launch(split_kernel<S, false>, grid, S::kThreads, WideShared<S, false>(args.pages).bytes(), stream, args);
}

}  // namespace

void run_split_attention(CudaStream stream, const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  if (pages.k_dim <= Narrow::kMaxK && pages.v_dim <= Narrow::kMaxV &&
      args.q_thd.dim1 / pages.num_kv_heads <= 16)
    run_splits<Narrow>(stream, args);
  else if (args.q_thd.dim1 / pages.num_kv_heads <= 16)
    run_splits<Wide16>(stream, args);
  else
    run_splits<Wide32>(stream, args);
  if (args.partial != nullptr)
    launch(merge_kernel, dim3(static_cast<unsigned>(args.num_tokens), static_cast<unsigned>(args.q_thd.dim1)),
           kMergeThreads, 0, stream, args);
}

}  // namespace guildhall
