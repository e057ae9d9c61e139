// rope_cuda.cu: rotates pairs; a token's heads are shared among the threads of its blocks.
#include "base/check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/rope.h"

namespace guildhall {
namespace {

// N pairs (x[i], x[i + half]).
template <int N>
__device__ void rotate_half(const float* cos, const float* sin, int64_t half, float* x) {
  const Pack<float, N> c = load_pack<N>(cos), s = load_pack<N>(sin);
  Pack<float, N> a = load_pack<N>(x), b = load_pack<N>(x + half);
  for (int j = 0; j < N; ++j) {
    const float rotated_a = a.v[j] * c.v[j] - b.v[j] * s.v[j];
    b.v[j] = b.v[j] * c.v[j] + a.v[j] * s.v[j];
    a.v[j] = rotated_a;
  }
  store_pack(x, a);
  store_pack(x + half, b);
}

// N pairs (x[2i], x[2i+1]); a load holds at most N elements, which is what alignment is known for.
template <int N>
__device__ void rotate_interleaved(const float* cos, const float* sin, float* x) {
  const Pack<float, N> c = load_pack<N>(cos), s = load_pack<N>(sin);
  Pack<float, N> ab[2] = {load_pack<N>(x), load_pack<N>(x + N)};
  for (int j = 0; j < N; ++j) {
    float& a = ab[2 * j / N].v[2 * j % N];
    float& b = ab[(2 * j + 1) / N].v[(2 * j + 1) % N];
    const float rotated_a = a * c.v[j] - b * s.v[j];
    b = b * c.v[j] + a * s.v[j];
    a = rotated_a;
  }
  store_pack(x, ab[0]);
  store_pack(x + N, ab[1]);
}

// Each pack is N pairs of one head.
template <RopePairing kPairing, int N>
__global__ void rope_kernel(const float* cos_pd, const float* sin_pd, const int32_t* positions_t,
                            int64_t half, View3<float> x_thd) {
  const int64_t t = blockIdx.x, packs_per_head = half / N;
  if (positions_t[t] < 0) return;  // padding of a recorded batch stays as it is
  const int64_t table_row = int64_t{positions_t[t]} * half;
  for_packs(x_thd.dim1 * packs_per_head, [&](int64_t i) {
    const int64_t pair = static_cast<int32_t>(i) % static_cast<int32_t>(packs_per_head) * N;
    float* x = x_thd.at(t, static_cast<int32_t>(i) / static_cast<int32_t>(packs_per_head));
    const float *cos = cos_pd + table_row + pair, *sin = sin_pd + table_row + pair;
    if constexpr (kPairing == RopePairing::half)
      rotate_half<N>(cos, sin, half, x + pair);
    else
      rotate_interleaved<N>(cos, sin, x + 2 * pair);
  });
}

}  // namespace

void rope_cuda(CudaStream stream, const RopeTableView& table, RopePairing pairing,
               std::span<const int32_t> positions_t, View3<float> x_thd) {
  const int64_t half = table.dim / 2;
  GH_CHECK(x_thd.dim2 == table.dim && x_thd.dim0 == static_cast<int64_t>(positions_t.size()));
  GH_CHECK(table.cos_pd.size() == table.sin_pd.size() && x_thd.dim1 * half <= INT32_MAX);
  if (x_thd.dim0 == 0 || x_thd.dim1 == 0) return;
  const auto run = [&](auto kernel, int width) {
    const RowGrid g = row_grid(x_thd.dim0, x_thd.dim1 * half / width);
    launch(kernel, g.grid, g.threads, 0, stream, table.cos_pd.data(), table.sin_pd.data(), positions_t.data(),
           half, x_thd);
  };
  const bool wide = half % 4 == 0 && packs_fit<4>(x_thd) && packs_fit<4>(table.cos_pd.data(), half) &&
                    packs_fit<4>(table.sin_pd.data(), half);
  if (pairing == RopePairing::half)
    wide ? run(rope_kernel<RopePairing::half, 4>, 4) : run(rope_kernel<RopePairing::half, 1>, 1);
  else
    wide ? run(rope_kernel<RopePairing::interleaved, 4>, 4)
         : run(rope_kernel<RopePairing::interleaved, 1>, 1);
}

}  // namespace guildhall
