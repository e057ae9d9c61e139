// linear_cuda.cu: linears on the device: few rows by a kernel of ours, others by the library, with bias and
// the conversion of x before it.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/fp8_products.h"
#include "kernels/linear.h"

namespace guildhall {
namespace {

// A linear, or one per head: x [T,H,K], y [T,H,N], w [H*N,K].
struct HeadsLinear {
  View3<const float> x_thk;
  WeightView w_hnk;
  View3<float> y_thn;
  const float* bias_n;  // null: none
  bool accumulate;
};

template <class W, bool kAligned>
__global__ void __launch_bounds__(kMostThreads) few_rows_kernel(HeadsLinear l) {
  const int64_t head = blockIdx.y, num_n = l.y_thn.dim2;
  const FewRows<W, 1> f = {.w = {FewRowsMatrix<W>(l.w_hnk.sub_rows(head * num_n, num_n))},
                           .num_n = num_n,
                           .num_k = l.w_hnk.cols,
                           .n = int64_t{blockIdx.x} * kTileN,
                           .x = l.x_thk.at(0, head),
                           .x_stride = l.x_thk.stride0,
                           .num_t = l.x_thk.dim0};
  few_rows<W, 1, 1, kAligned>(f, [&](int i, int t, const float(&sum)[1]) {
    const int64_t n = f.n + i;
    float* y = l.y_thn.at(t, head) + n;
    *y = (l.accumulate ? *y : 0.0f) + (l.bias_n == nullptr ? 0.0f : l.bias_n[n]) + sum[0];
  });
}

template <class W>
void run_few_rows(CudaStream stream, const HeadsLinear& l) {
  const int64_t num_k = l.w_hnk.cols;
  const bool aligned = aligned16(l.w_hnk.data) && num_k % kPieceK<W> == 0 && aligned16(l.x_thk.data) &&
                       l.x_thk.stride0 % 4 == 0 && l.x_thk.stride1 % 4 == 0;
  const int warps = warps_for<W>(num_k);
  const dim3 grid(static_cast<unsigned>((l.y_thn.dim2 + kTileN - 1) / kTileN),
                  static_cast<unsigned>(l.x_thk.dim1));
  launch(aligned ? few_rows_kernel<W, true> : few_rows_kernel<W, false>, grid,
         static_cast<unsigned>(warps * kWarp), few_rows_shared_bytes<1, 1>(warps), stream, l);
}

// y = bias or y += bias, in every row.
__global__ void bias_kernel(const float* bias_n, bool accumulate, View2<float> y_tn) {
  float* y = y_tn.row(blockIdx.x);
  for (int64_t n = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; n < y_tn.cols;
       n += int64_t{gridDim.y} * blockDim.x)
    y[n] = (accumulate ? y[n] : 0.0f) + bias_n[n];
}

void run_library(Blas& blas, const HeadsLinear& l) {
  const View3<const float>& x = l.x_thk;
  const int64_t num_heads = x.dim1, num_n = l.y_thn.dim2, num_k = l.w_hnk.cols;
  MatrixProduct product = {.dtype = l.w_hnk.dtype,
                           .num_t = x.dim0,
                           .num_n = num_n,
                           .num_k = num_k,
                           .x = x.data,
                           .x_stride = x.stride0,
                           .w = l.w_hnk.data,
                           .y = l.y_thn.data,
                           .y_stride = l.y_thn.stride0,
                           .accumulate = l.accumulate,
                           .batch = num_heads,
                           .x_step = x.stride1,
                           .w_step = num_n * num_k,
                           .y_step = l.y_thn.stride1};
  if (l.w_hnk.dtype == DType::bf16) {
    const Bf16Rows rows(x.dim0 * num_heads, num_k);
    bf16* const converted = reinterpret_cast<bf16*>(blas.scratch(rows.bytes()));
    convert_rows_cuda(blas.stream(), x, rows, converted);
    product.x = converted;
    product.x_stride = num_heads * rows.stride;
    product.x_step = rows.stride;
  }
  blas.multiply(product);
}

void run_fp8(Blas& blas, const HeadsLinear& l) {
  const View2<const float> x_tk(l.x_thk.data, l.x_thk.dim0, l.x_thk.dim2, l.x_thk.stride0);
  std::byte* const memory = blas.scratch(fp8_products_bytes(x_tk.rows, x_tk.cols, l.w_hnk.rows));
  Fp8Products(blas, x_tk, l.w_hnk, memory)
      .multiply(l.w_hnk, l.accumulate, {l.y_thn.data, x_tk.rows, l.w_hnk.rows, l.y_thn.stride0});
}

void run_linear(Blas& blas, const HeadsLinear& l) {
  if (l.x_thk.dim0 == 0 || l.x_thk.dim1 == 0 || l.y_thn.dim2 == 0) return;
  if (l.x_thk.dim0 <= kFewRows) {
    if (l.w_hnk.dtype == DType::bf16) return run_few_rows<bf16>(blas.stream(), l);
    if (l.w_hnk.dtype == DType::e4m3) return run_few_rows<uint8_t>(blas.stream(), l);
  }
  HeadsLinear rest = l;
  if (l.bias_n != nullptr) {
    GH_CHECK(l.x_thk.dim1 == 1);
    const dim3 grid(static_cast<unsigned>(l.x_thk.dim0),
                    static_cast<unsigned>(std::min<int64_t>((l.y_thn.dim2 + 1023) / 1024, 8)));
    launch(bias_kernel, grid, 256, 0, blas.stream(), l.bias_n, l.accumulate,
           View2<float>(l.y_thn.data, l.y_thn.dim0, l.y_thn.dim2, l.y_thn.stride0));
    rest.accumulate = true;
  }
  if (l.w_hnk.dtype == DType::e4m3)
    run_fp8(blas, rest);
  else
    run_library(blas, rest);
}

}  // namespace

void linear_cuda(Blas& blas, View2<const float> x_tk, WeightView w_nk, const LinearOptions& options,
                 View2<float> y_tn) {
  GH_CHECK(x_tk.cols == w_nk.cols && y_tn.cols == w_nk.rows && x_tk.rows == y_tn.rows);
  GH_CHECK(options.bias_n.empty() || static_cast<int64_t>(options.bias_n.size()) == w_nk.rows);
  run_linear(blas, {.x_thk = {x_tk.data, x_tk.rows, 1, x_tk.cols, x_tk.stride, x_tk.cols},
                    .w_hnk = w_nk,
                    .y_thn = {y_tn.data, y_tn.rows, 1, y_tn.cols, y_tn.stride, y_tn.cols},
                    .bias_n = options.bias_n.empty() ? nullptr : options.bias_n.data(),
                    .accumulate = options.accumulate});
}

void linear_heads_cuda(Blas& blas, View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) {
  GH_CHECK(y_thn.dim0 == x_thk.dim0 && y_thn.dim1 == x_thk.dim1 && x_thk.dim2 == w_hnk.cols);
  GH_CHECK(w_hnk.rows == x_thk.dim1 * y_thn.dim2 && w_hnk.dtype != DType::e4m3);
  run_linear(blas, {.x_thk = x_thk, .w_hnk = w_hnk, .y_thn = y_thn, .bias_n = nullptr, .accumulate = false});
}

}  // namespace guildhall
