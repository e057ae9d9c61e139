// expert_ffn_cuda.cu: the grouped FFN on the device. Where every expert has few rows, two kernels read each
// expert's weights once, gate and up fused with SwiGLU; otherwise the library multiplies all experts in
// groups. Experts of e4m3 codes choose each for itself.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/fp8_products.h"
#include "kernels/expert_ffn.h"

namespace guildhall {
namespace {

__device__ float silu(float x) { return x / (1 + expf(-x)); }

// The experts of one launch, by value: a table on the device would have to be uploaded.
template <class W>
struct ExpertTable {
  struct Entry {
    FewRowsMatrix<W> gate_fh, up_fh, down_hf;
    int32_t row_begin, num_rows;
  };
  // Of the 4 KiB that a kernel's arguments may take.
  static constexpr unsigned kMost = 3500 / sizeof(Entry);
  Entry entry_e[kMost];
};

// hidden = silu(gate x) * up x for rows of F; blockIdx.y is the expert.
template <class W, int kTilesT, bool kAligned>
__global__ void __launch_bounds__(kMostThreads)
    gate_up_kernel(ExpertTable<W> table, View2<const float> x_rh, View2<float> hidden_rf) {
  const typename ExpertTable<W>::Entry& e = table.entry_e[blockIdx.y];
  const FewRows<W, 2> f = {.w = {e.gate_fh, e.up_fh},
                           .num_n = hidden_rf.cols,
                           .num_k = x_rh.cols,
                           .n = int64_t{blockIdx.x} * kTileN,
                           .x = x_rh.row(e.row_begin),
                           .x_stride = x_rh.stride,
                           .num_t = e.num_rows};
  few_rows<W, 2, kTilesT, kAligned>(f, [&](int i, int t, const float(&sum)[2]) {
    hidden_rf(e.row_begin + t, f.n + i) = silu(sum[0]) * sum[1];
  });
}

template <class W, int kTilesT, bool kAligned>
__global__ void __launch_bounds__(kMostThreads)
    down_kernel(ExpertTable<W> table, View2<const float> hidden_rf, View2<float> y_rh) {
  const typename ExpertTable<W>::Entry& e = table.entry_e[blockIdx.y];
  const FewRows<W, 1> f = {.w = {e.down_hf},
                           .num_n = y_rh.cols,
                           .num_k = hidden_rf.cols,
                           .n = int64_t{blockIdx.x} * kTileN,
                           .x = hidden_rf.row(e.row_begin),
                           .x_stride = hidden_rf.stride,
                           .num_t = e.num_rows};
  few_rows<W, 1, kTilesT, kAligned>(
      f, [&](int i, int t, const float(&sum)[1]) { y_rh(e.row_begin + t, f.n + i) = sum[0]; });
}

template <class W>
struct Launch {
  CudaStream stream;
  const ExpertTable<W>& table;
  unsigned num_experts;
  View2<const float> x_rh;
  View2<float> hidden_rf, y_rh;
};

template <class W, int kTilesT, bool kAligned>
void run_few_rows(const Launch<W>& l) {
  const auto tiles = [](int64_t n) { return static_cast<unsigned>((n + kTileN - 1) / kTileN); };
  const auto threads = [](int64_t k) { return static_cast<unsigned>(warps_for<W>(k) * kWarp); };
  launch(gate_up_kernel<W, kTilesT, kAligned>, dim3(tiles(l.hidden_rf.cols), l.num_experts),
         threads(l.x_rh.cols), few_rows_shared_bytes<2, kTilesT>(warps_for<W>(l.x_rh.cols)), l.stream,
         l.table, l.x_rh, l.hidden_rf);
  launch(down_kernel<W, kTilesT, kAligned>, dim3(tiles(l.y_rh.cols), l.num_experts),
         threads(l.hidden_rf.cols), few_rows_shared_bytes<1, kTilesT>(warps_for<W>(l.hidden_rf.cols)),
         l.stream, l.table, l.hidden_rf, l.y_rh);
}

template <class W, int kTilesT>
void run_few_rows(const Launch<W>& l, bool aligned) {
  (aligned ? run_few_rows<W, kTilesT, true> : run_few_rows<W, kTilesT, false>)(l);
}

// Of the experts with at most kFewExpertRows.
template <class W>
void run_few_rows(CudaStream stream, View2<const float> x_rh, std::span<const int32_t> offset_e,
                  std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh) {
  bool aligned = x_rh.cols % kPieceK<W> == 0 && hidden_rf.cols % kPieceK<W> == 0 && packs_fit<4>(x_rh) &&
                 packs_fit<4>(hidden_rf);
  ExpertTable<W> table;
  unsigned num_experts = 0;
  int32_t most_rows = 0;
  const auto flush = [&] {
    const Launch<W> l = {stream, table, num_experts, x_rh, hidden_rf, y_rh};
    if (most_rows <= kTileT)
      run_few_rows<W, 1>(l, aligned);
    else if (most_rows <= 2 * kTileT)
      run_few_rows<W, 2>(l, aligned);
    else
      run_few_rows<W, 4>(l, aligned);
    num_experts = 0, most_rows = 0;
  };
  for (size_t e = 0; e < experts.size(); ++e) {
    const int32_t rows = offset_e[e + 1] - offset_e[e];
    if (rows == 0 || rows > kFewExpertRows) continue;
    const ExpertWeightView& w = experts[e];
    for (const WeightView& matrix : {w.gate_fh, w.up_fh, w.down_hf}) aligned &= aligned16(matrix.data);
    table.entry_e[num_experts++] = {FewRowsMatrix<W>(w.gate_fh), FewRowsMatrix<W>(w.up_fh),
                                    FewRowsMatrix<W>(w.down_hf), offset_e[e], rows};
    most_rows = std::max(most_rows, rows);
    if (num_experts == ExpertTable<W>::kMost) flush();
  }
  if (num_experts > 0) flush();
}

// hidden = silu(gate) * up; `rounded` too, unless it is null.
__global__ void swiglu_kernel(View2<const float> gate_rf, View2<float> hidden_rf, bf16* rounded,
                              int64_t stride) {
  const int64_t r = blockIdx.x;
  for_packs(hidden_rf.cols, [&](int64_t f) {
    const float hidden = silu(gate_rf(r, f)) * hidden_rf(r, f);
    if (rounded == nullptr)
      hidden_rf(r, f) = hidden;
    else
      rounded[r * stride + f] = to_bf16(hidden);
  });
}

void run_library(Blas& blas, View2<const float> x_rh, std::span<const int32_t> offset_e,
                 std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh,
                 DType dtype) {
  const int64_t rows = offset_e.back(), num_h = x_rh.cols, num_f = hidden_rf.cols;
  const Bf16Rows x_layout(rows, num_h), hidden_layout(rows, num_f);
  const bool half = dtype == DType::bf16;
  const int64_t gate_bytes = (rows * num_f * static_cast<int64_t>(sizeof(float)) + 255) / 256 * 256;
  std::byte* const scratch = blas.scratch(gate_bytes + (half ? x_layout.bytes() + hidden_layout.bytes() : 0));
  const View2<float> gate_rf(reinterpret_cast<float*>(scratch), rows, num_f);
  bf16* const x_half = half ? reinterpret_cast<bf16*>(scratch + gate_bytes) : nullptr;
  bf16* const hidden_half = half ? x_half + x_layout.bytes() / static_cast<int64_t>(sizeof(bf16)) : nullptr;
  if (half)
    convert_rows_cuda(blas.stream(), {x_rh.data, rows, 1, num_h, x_rh.stride, num_h}, x_layout, x_half);

  // y[rows of e] = x w_e, where `in` are x's rows in the experts' type.
  thread_local std::vector<MatrixProduct> products;  // kept, so that a warmed-up step allocates nothing
  products.clear();
  const auto add = [&](size_t e, const WeightView& w, const void* in, int64_t in_stride, View2<float> y) {
    const int64_t begin = offset_e[e], num_t = offset_e[e + 1] - begin;
    if (num_t > 0)
      products.push_back({.dtype = dtype,
                          .num_t = num_t,
                          .num_n = w.rows,
                          .num_k = w.cols,
                          .x = static_cast<const std::byte*>(in) + begin * in_stride * dtype_bytes(dtype),
                          .x_stride = in_stride,
                          .w = w.data,
                          .y = y.row(begin),
                          .y_stride = y.stride});
  };
  for (size_t e = 0; e < experts.size(); ++e) {
    const void* const x = half ? static_cast<const void*>(x_half) : x_rh.data;
    const int64_t x_stride = half ? x_layout.stride : x_rh.stride;
    add(e, experts[e].gate_fh, x, x_stride, gate_rf);
    add(e, experts[e].up_fh, x, x_stride, hidden_rf);
  }
  blas.multiply_all(products);
  const RowGrid grid = row_grid(rows, num_f);
  launch(swiglu_kernel, grid.grid, grid.threads, 0, blas.stream(), gate_rf, hidden_rf.first_rows(rows),
         hidden_half, hidden_layout.stride);
  products.clear();
  for (size_t e = 0; e < experts.size(); ++e)
    add(e, experts[e].down_hf, half ? static_cast<const void*>(hidden_half) : hidden_rf.data,
        half ? hidden_layout.stride : hidden_rf.stride, y_rh);
  blas.multiply_all(products);
}

// Experts of codes with many rows, one after another: a band of their weights at a time may be dequantised.
void run_fp8(Blas& blas, View2<const float> x_rh, std::span<const int32_t> offset_e,
             std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh,
             int32_t most_rows) {
  const int64_t num_h = x_rh.cols, num_f = hidden_rf.cols;
  const int64_t gate_bytes = (most_rows * num_f * static_cast<int64_t>(sizeof(float)) + 255) / 256 * 256;
  std::byte* const scratch = blas.scratch(gate_bytes + std::max(fp8_products_bytes(most_rows, num_h, num_f),
                                                                fp8_products_bytes(most_rows, num_f, num_h)));
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t begin = offset_e[e], rows = offset_e[e + 1] - begin;
    if (rows <= kFewExpertRows) continue;
    const ExpertWeightView& w = experts[e];
    const View2<float> gate_rf(reinterpret_cast<float*>(scratch), rows, num_f);
    const View2<float> hidden = hidden_rf.sub_rows(begin, rows);
    Fp8Products in(blas, x_rh.sub_rows(begin, rows), w.gate_fh, scratch + gate_bytes);
    in.multiply(w.gate_fh, false, gate_rf);
    in.multiply(w.up_fh, false, hidden);
    const RowGrid grid = row_grid(rows, num_f);
    launch(swiglu_kernel, grid.grid, grid.threads, 0, blas.stream(), gate_rf, hidden,
           static_cast<bf16*>(nullptr), int64_t{0});
    Fp8Products out(blas, hidden, w.down_hf, scratch + gate_bytes);
    out.multiply(w.down_hf, false, y_rh.sub_rows(begin, rows));
  }
}

}  // namespace

void expert_ffn_cuda(Blas& blas, View2<const float> x_rh, std::span<const int32_t> offset_e,
                     std::span<const ExpertWeightView> experts, View2<float> hidden_rf, View2<float> y_rh) {
  GH_CHECK(offset_e.size() == experts.size() + 1 && offset_e.front() == 0 && offset_e.back() <= x_rh.rows);
  GH_CHECK(hidden_rf.rows >= offset_e.back() && y_rh.rows >= offset_e.back() && y_rh.cols == x_rh.cols);
  if (offset_e.back() == 0) return;
  DType dtype = DType::f32;
  int32_t most_rows = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    const int32_t rows = offset_e[e + 1] - offset_e[e];
    if (rows == 0) continue;
    const ExpertWeightView& w = experts[e];
    GH_CHECK(w.gate_fh.cols == x_rh.cols && w.up_fh.cols == x_rh.cols && w.down_hf.rows == x_rh.cols);
    GH_CHECK(w.gate_fh.rows == hidden_rf.cols && w.up_fh.rows == hidden_rf.cols &&
             w.down_hf.cols == hidden_rf.cols);
    GH_CHECK(most_rows == 0 || w.gate_fh.dtype == dtype);
    dtype = w.gate_fh.dtype;
    most_rows = std::max(most_rows, rows);
  }
  if (dtype == DType::e4m3) {
    run_few_rows<uint8_t>(blas.stream(), x_rh, offset_e, experts, hidden_rf, y_rh);
    if (most_rows > kFewExpertRows) run_fp8(blas, x_rh, offset_e, experts, hidden_rf, y_rh, most_rows);
  } else if (dtype == DType::bf16 && most_rows <= kFewExpertRows)
    run_few_rows<bf16>(blas.stream(), x_rh, offset_e, experts, hidden_rf, y_rh);
  else
    run_library(blas, x_rh, offset_e, experts, hidden_rf, y_rh, dtype);
}

}  // namespace guildhall
