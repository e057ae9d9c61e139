// fp8_cuda.cu: e4m3 with a scale per group of 128: a warp per group, four elements per lane.
#include "base/check.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/fp8.h"

namespace guildhall {
namespace {

constexpr int kPerLane = static_cast<int>(kFp8GroupSize) / kWarp;
constexpr unsigned kThreads = 128, kGroupsPerBlock = kThreads / kWarp;

// Elements beyond the row's end read as 0 and are not written.
template <bool kWide, class T>
__device__ Pack<T, kPerLane> load_lane(const T* x, int64_t left) {
  if constexpr (kWide) {
    if (left >= kPerLane) return load_pack<kPerLane>(x);
  }
  Pack<T, kPerLane> lane;
  for (int j = 0; j < kPerLane; ++j) lane.v[j] = j < left ? x[j] : T{};
  return lane;
}
template <bool kWide, class T>
__device__ void store_lane(T* y, int64_t left, const Pack<T, kPerLane>& lane) {
  if constexpr (kWide) {
    if (left >= kPerLane) return store_pack(y, lane);
  }
  for (int j = 0; j < kPerLane; ++j)
    if (j < left) y[j] = lane.v[j];
}

// blockIdx.x is the row; groups are shared among blockIdx.y and the block's warps.
template <class Body>
__device__ void for_groups(int64_t cols, Body body) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t g = int64_t{blockIdx.y} * kGroupsPerBlock + threadIdx.x / kWarp; g * kFp8GroupSize < cols;
       g += int64_t{gridDim.y} * kGroupsPerBlock) {
    const int64_t i = g * kFp8GroupSize + lane * kPerLane;
    body(g, i, cols - i, lane);
  }
}

// Where row t's scale of group g goes.
struct ScaleSteps {
  float* data;
  int64_t row, group;
};

template <bool kWide>
__global__ void to_fp8_kernel(View2<const float> x_th, View2<uint8_t> code_th, ScaleSteps scale) {
  const int64_t t = blockIdx.x;
  for_groups(x_th.cols, [&](int64_t g, int64_t i, int64_t left, int lane) {
    const Pack<float, kPerLane> x = load_lane<kWide>(x_th.row(t) + i, left);
    float amax = 0;
    for (int j = 0; j < kPerLane; ++j)
      if (is_finite(x.v[j])) amax = fmaxf(amax, fabsf(x.v[j]));
    const float unit = fmaxf(warp_max(amax) / 448.0f, 0x1p-126f), inverse = 1 / unit;
    Pack<uint8_t, kPerLane> code;
    for (int j = 0; j < kPerLane; ++j) code.v[j] = to_e4m3(x.v[j], inverse);
    store_lane<kWide>(code_th.row(t) + i, left, code);
    if (lane == 0) scale.data[t * scale.row + g * scale.group] = unit;
  });
}

template <bool kWide>
__global__ void from_fp8_kernel(View2<const uint8_t> code_th, View2<const float> scale_tg,
                                View2<float> x_th) {
  const int64_t t = blockIdx.x;
  for_groups(x_th.cols, [&](int64_t g, int64_t i, int64_t left, int) {
    const Pack<uint8_t, kPerLane> code = load_lane<kWide>(code_th.row(t) + i, left);
    const float scale = scale_tg(t, g);
    Pack<float, kPerLane> x;
    for (int j = 0; j < kPerLane; ++j) x.v[j] = from_e4m3(code.v[j], scale);
    store_lane<kWide>(x_th.row(t) + i, left, x);
  });
}

dim3 group_grid(int64_t rows, int64_t cols) {
  const int64_t shares = (fp8_groups(cols) + kGroupsPerBlock - 1) / kGroupsPerBlock;
  return {static_cast<unsigned>(rows), static_cast<unsigned>(std::min(shares, int64_t{65535}))};
}

void to_fp8(CudaStream stream, View2<const float> x_th, View2<uint8_t> code_th, const ScaleSteps& scale) {
  GH_CHECK(code_th.rows == x_th.rows && code_th.cols == x_th.cols);
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide = packs_fit<kPerLane>(x_th) && packs_fit<kPerLane>(code_th);
  launch(wide ? to_fp8_kernel<true> : to_fp8_kernel<false>, group_grid(x_th.rows, x_th.cols), kThreads, 0,
         stream, x_th, code_th, scale);
}

}  // namespace

void to_fp8_cuda(CudaStream stream, View2<const float> x_th, View2<uint8_t> code_th, View2<float> scale_tg) {
  GH_CHECK(scale_tg.rows == x_th.rows && scale_tg.cols == fp8_groups(x_th.cols));
  to_fp8(stream, x_th, code_th, {scale_tg.data, scale_tg.stride, 1});
}

void to_fp8_columns_cuda(CudaStream stream, View2<const float> x_th, View2<uint8_t> code_th,
                         View2<float> scale_gt) {
  GH_CHECK(scale_gt.cols == x_th.rows && scale_gt.rows == fp8_groups(x_th.cols));
  to_fp8(stream, x_th, code_th, {scale_gt.data, 1, scale_gt.stride});
}

void from_fp8_cuda(CudaStream stream, View2<const uint8_t> code_th, View2<const float> scale_tg,
                   View2<float> x_th) {
  GH_CHECK(code_th.rows == x_th.rows && code_th.cols == x_th.cols);
  GH_CHECK(scale_tg.rows == x_th.rows && scale_tg.cols == fp8_groups(x_th.cols));
  if (x_th.rows == 0 || x_th.cols == 0) return;
  const bool wide = packs_fit<kPerLane>(x_th) && packs_fit<kPerLane>(code_th);
  launch(wide ? from_fp8_kernel<true> : from_fp8_kernel<false>, group_grid(x_th.rows, x_th.cols), kThreads, 0,
         stream, code_th, scale_tg, x_th);
}

}  // namespace guildhall
