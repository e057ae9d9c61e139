// permute_cuda.cu: grouping pairs by expert, a block per expert, and moving rows.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/permute.h"

namespace guildhall {
namespace {

constexpr unsigned kThreads = 256, kNumWarps = kThreads / kWarp;

// Block e counts the pairs of lower experts, which is where its group begins, and ranks its own. Every warp
// takes one stretch of the pairs, so that ranks follow the pairs' order; no block waits for another.
__global__ void group_by_expert_kernel(const int32_t* expert_p, int64_t num_pairs, int64_t num_experts,
                                       int32_t* offset_e, int32_t* position_p) {
  GH_SHARED(int32_t, lower_w, [kNumWarps]);
  GH_SHARED(int32_t, own_w, [kNumWarps]);
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t stretch = (num_pairs + kThreads - 1) / kThreads * kWarp;
  const int64_t begin = min(warp * stretch, num_pairs), end = min(begin + stretch, num_pairs);

  int32_t lower = 0, own = 0;  // of this lane
  for (int64_t p = begin + lane; p < end; p += kWarp) {
    lower += expert_p[p] < expert;
    own += expert_p[p] == expert;
  }
  const auto add = [](int32_t a, int32_t b) { return a + b; };
  lower = warp_reduce(lower, add);
  own = warp_reduce(own, add);
  if (lane == 0) lower_w[warp] = lower, own_w[warp] = own;
  __syncthreads();
  int32_t group_begin = 0, next = 0, group_size = 0;
  for (unsigned w = 0; w < kNumWarps; ++w) {
    group_begin += lower_w[w];
    if (w < warp) next += own_w[w];
    group_size += own_w[w];
  }
  next += group_begin;
  if (threadIdx.x == 0) {
    offset_e[expert] = group_begin;
    if (expert + 1 == num_experts) offset_e[num_experts] = group_begin + group_size;
  }
  for (int64_t p = begin; p < end; p += kWarp) {  // the whole warp together
    const bool mine = p + lane < end && expert_p[p + lane] == expert;
    const unsigned mine_in_warp = __ballot_sync(kFullWarp, mine);
    if (mine) position_p[p + lane] = next + __popc(mine_in_warp & ((1u << lane) - 1));
    next += __popc(mine_in_warp);
  }
}

// to[to_p[p]] = from[from_p[p]]; a null map is p itself.
template <int N>
__global__ void move_rows_kernel(View2<const float> from, const int32_t* from_p, View2<float> to,
                                 const int32_t* to_p) {
  const float* x = from.row(from_p == nullptr ? int64_t{blockIdx.x} : from_p[blockIdx.x]);
  float* y = to.row(to_p == nullptr ? int64_t{blockIdx.x} : to_p[blockIdx.x]);
  for_packs(from.cols / N, [&](int64_t i) { store_pack(y + i * N, load_pack<N>(x + i * N)); });
}

void move_rows(CudaStream stream, size_t num_rows, View2<const float> from, const int32_t* from_p,
               View2<float> to, const int32_t* to_p) {
  constexpr int kWide = 4;
  GH_CHECK(from.cols == to.cols);
  if (num_rows == 0 || from.cols == 0) return;
  const bool wide = packs_fit<kWide>(from) && packs_fit<kWide>(to);
  const RowGrid g = row_grid(static_cast<int64_t>(num_rows), from.cols / (wide ? kWide : 1));
  launch(wide ? move_rows_kernel<kWide> : move_rows_kernel<1>, g.grid, g.threads, 0, stream, from, from_p, to,
         to_p);
}

}  // namespace

void group_by_expert_cuda(CudaStream stream, std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                          std::span<int32_t> position_p) {
  GH_CHECK(!offset_e.empty() && position_p.size() == expert_p.size() && expert_p.size() <= INT32_MAX);
  const auto num_experts = static_cast<int64_t>(offset_e.size()) - 1;
  // Without experts there are no pairs, and block 0 writes the one offset.
  launch(group_by_expert_kernel, static_cast<unsigned>(std::max(num_experts, int64_t{1})), kThreads, 0,
         stream, expert_p.data(), static_cast<int64_t>(expert_p.size()), num_experts, offset_e.data(),
         position_p.data());
}

void permute_cuda(CudaStream stream, View2<const float> x_th, std::span<const int32_t> row_p,
                  std::span<const int32_t> position_p, View2<float> grouped_ph) {
  GH_CHECK(row_p.size() == position_p.size() && static_cast<int64_t>(row_p.size()) <= grouped_ph.rows);
  move_rows(stream, row_p.size(), x_th, row_p.data(), grouped_ph, position_p.data());
}

void unpermute_cuda(CudaStream stream, View2<const float> grouped_ph, std::span<const int32_t> position_p,
                    View2<float> y_ph) {
  GH_CHECK(static_cast<int64_t>(position_p.size()) <= y_ph.rows);
  move_rows(stream, position_p.size(), grouped_ph, position_p.data(), y_ph, nullptr);
}

}  // namespace guildhall
