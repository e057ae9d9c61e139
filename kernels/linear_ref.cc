// linear_ref.cc: the definition of linear, in double and rounded once, so that it is the better answer of the
// two.
#include "base/check.h"
#include "kernels/fp8.h"
#include "kernels/linear.h"

namespace guildhall {
namespace {

double weight_at(const WeightView& w, int64_t n, int64_t k) {
  if (w.dtype == DType::f32) return static_cast<const float*>(w.row(n))[k];
  if (w.dtype == DType::bf16) return to_float(static_cast<const bf16*>(w.row(n))[k]);
  float value = 0;
  from_fp8_ref({static_cast<const uint8_t*>(w.row(n)) + k, 1}, {w.scale_row(n) + k / kFp8BlockSize, 1},
               {&value, 1});
  return value;
}

}  // namespace

void linear_ref(View2<const float> x_tk, WeightView w_nk, const LinearOptions& options, View2<float> y_tn) {
  GH_CHECK(x_tk.cols == w_nk.cols && y_tn.cols == w_nk.rows && x_tk.rows == y_tn.rows);
  for (int64_t t = 0; t < x_tk.rows; ++t) {
    for (int64_t n = 0; n < w_nk.rows; ++n) {
      double sum = options.bias_n.empty() ? 0.0 : options.bias_n[static_cast<size_t>(n)];
      for (int64_t k = 0; k < w_nk.cols; ++k) sum += static_cast<double>(x_tk(t, k)) * weight_at(w_nk, n, k);
      y_tn(t, n) = static_cast<float>(options.accumulate ? y_tn(t, n) + sum : sum);
    }
  }
}

void linear_heads_ref(View3<const float> x_thk, WeightView w_hnk, View3<float> y_thn) {
  const int64_t num_heads = x_thk.dim1, num_n = y_thn.dim2;
  GH_CHECK(y_thn.dim0 == x_thk.dim0 && y_thn.dim1 == num_heads && w_hnk.rows == num_heads * num_n);
  GH_CHECK(w_hnk.dtype != DType::e4m3);
  for (int64_t h = 0; h < num_heads; ++h)
    linear_ref({x_thk.at(0, h), x_thk.dim0, x_thk.dim2, x_thk.stride0}, w_hnk.sub_rows(h * num_n, num_n), {},
               {y_thn.at(0, h), y_thn.dim0, num_n, y_thn.stride0});
}

}  // namespace guildhall
