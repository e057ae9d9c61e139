#include "kernels/cuda/fp8_products.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/copy.h"
#include "kernels/cuda/bf16_rows.h"
#include "kernels/fp8.h"
#include "kernels/fp8_weight.h"
#include "kernels/rmsnorm.h"

namespace guildhall {
namespace {

int64_t align256(int64_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t round_up4(int64_t n) { return (n + 3) / 4 * 4; }

// Rows of W [N,K] in a band: whole blocks of scales.
int64_t band_rows(int64_t num_n, int64_t num_k, int64_t band_bytes) {
  const int64_t blocks = band_bytes / (num_k * int64_t{sizeof(bf16)} * kFp8BlockSize);
  return std::min(num_n, std::max<int64_t>(blocks, 1) * kFp8BlockSize);
}

// Codes of x, then their scales.
int64_t code_bytes(int64_t num_t, int64_t num_k) { return align256(round_up4(num_t) * num_k); }
int64_t scale_bytes(int64_t num_t, int64_t num_k) {
  return align256(fp8_groups(num_k) * round_up4(num_t) * int64_t{sizeof(float)});
}

}  // namespace

int64_t fp8_products_bytes(int64_t num_t, int64_t num_k, int64_t num_n) {
  const int64_t padded_y = round_up4(num_t) * num_n * int64_t{sizeof(float)};
  const int64_t as_codes = code_bytes(num_t, num_k) + scale_bytes(num_t, num_k) + align256(padded_y);
  const int64_t as_bf16 = Bf16Rows(num_t, num_k).bytes() +
                          align256(band_rows(num_n, num_k, kFp8BandBytes) * num_k * int64_t{sizeof(bf16)});
  return std::max(as_codes, as_bf16);
}

Fp8Products::Fp8Products(Blas& blas, View2<const float> x_tk, const WeightView& w_nk, std::byte* memory,
                         int64_t band_bytes)
    : blas_(blas), num_t_(x_tk.rows), band_bytes_(band_bytes) {
  const int64_t num_k = x_tk.cols, padded_t = round_up4(num_t_);
  GH_CHECK(w_nk.dtype == DType::e4m3 && w_nk.cols == num_k);
  const View2<uint8_t> codes_tk(reinterpret_cast<uint8_t*>(memory), num_t_, num_k);
  const View2<float> scale_gt(reinterpret_cast<float*>(memory + code_bytes(num_t_, num_k)), fp8_groups(num_k),
                              num_t_, padded_t);
  product_ = {.dtype = DType::e4m3,
              .num_t = padded_t,
              .num_n = w_nk.rows,
              .num_k = num_k,
              .x = codes_tk.data,
              .x_stride = num_k,
              .w = w_nk.data,
              .y_stride = w_nk.rows,
              .x_scale_gt = scale_gt.data,
              .w_scale_bb = w_nk.scale_bb};
  product_.y = reinterpret_cast<float*>(memory);  // for its alignment
  const bool fits = num_k % 16 == 0 && w_nk.rows % 4 == 0 && aligned16(w_nk.data) && aligned16(w_nk.scale_bb);
  if (fits && blas.takes(product_)) {
    rest_ = memory + code_bytes(num_t_, num_k) + scale_bytes(num_t_, num_k);
    to_fp8_columns_cuda(blas.stream(), x_tk, codes_tk, scale_gt);
    return;
  }
  const Bf16Rows rows(num_t_, num_k);
  auto* const rounded = reinterpret_cast<bf16*>(memory);
  convert_rows_cuda(blas.stream(), {x_tk.data, num_t_, 1, num_k, x_tk.stride, num_k}, rows, rounded);
  rest_ = memory + rows.bytes();
  product_ = {.dtype = DType::bf16, .num_t = num_t_, .num_k = num_k, .x = rounded, .x_stride = rows.stride};
}

void Fp8Products::multiply(const WeightView& w_nk, bool accumulate, View2<float> y_tn) {
  GH_CHECK(w_nk.dtype == DType::e4m3 && w_nk.cols == product_.num_k && y_tn.cols == w_nk.rows);
  GH_CHECK(y_tn.rows == num_t_);
  if (product_.dtype == DType::e4m3)
    multiply_codes(w_nk, accumulate, y_tn);
  else
    multiply_dequantised(w_nk, accumulate, y_tn);
}

// Rows that fill T up hold whatever was there, and so do their results, which are left out.
void Fp8Products::multiply_codes(const WeightView& w_nk, bool accumulate, View2<float> y_tn) {
  GH_CHECK(w_nk.rows == product_.num_n);
  MatrixProduct p = product_;
  p.w = w_nk.data;
  p.w_scale_bb = w_nk.scale_bb;
  p.y = y_tn.data;
  p.y_stride = y_tn.stride;
  p.accumulate = accumulate;
  if (p.num_t == num_t_ && aligned16(p.y) && p.y_stride % 4 == 0 && blas_.takes(p)) return blas_.multiply(p);
  const View2<float> padded(reinterpret_cast<float*>(rest_), num_t_, w_nk.rows);
  p.y = padded.data;
  p.y_stride = padded.stride;
  p.accumulate = false;
  blas_.multiply(p);
  if (accumulate)
    add_cuda(blas_.stream(), padded, y_tn);
  else
    copy_cuda(blas_.stream(), {padded.data, num_t_, 1, padded.cols, padded.stride, padded.cols},
              {y_tn.data, num_t_, 1, y_tn.cols, y_tn.stride, y_tn.cols});
}

void Fp8Products::multiply_dequantised(const WeightView& w_nk, bool accumulate, View2<float> y_tn) {
  const int64_t band = band_rows(w_nk.rows, w_nk.cols, band_bytes_);
  for (int64_t n = 0; n < w_nk.rows; n += band) {
    const int64_t rows = std::min(band, w_nk.rows - n);
    const View2<bf16> wide(reinterpret_cast<bf16*>(rest_), rows, w_nk.cols);
    dequantize_fp8_weight_cuda(
        blas_.stream(), {static_cast<const uint8_t*>(w_nk.row(n)), rows, w_nk.cols},
        {w_nk.scale_row(n), fp8_blocks(rows), fp8_blocks(w_nk.cols), fp8_scale_stride(w_nk.cols)}, wide);
    MatrixProduct p = product_;
    p.num_n = rows;
    p.w = wide.data;
    p.y = y_tn.data + n;
    p.y_stride = y_tn.stride;
    p.accumulate = accumulate;
    blas_.multiply(p);
  }
}

}  // namespace guildhall
