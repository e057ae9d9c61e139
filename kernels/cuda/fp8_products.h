// fp8_products.h: many rows of x times weights of e4m3 codes. Where the library multiplies codes (Hopper), x
// is quantised to e4m3 with a scale per row and 128 of K, as DeepSeek-V3 was trained (Technical
// Report, 3.3.2); elsewhere, and for shapes it does not take, weights are dequantised to bf16, a band of rows
// at a time, and x is rounded to bf16. One thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/blas.h"
#include "kernels/view.h"

namespace guildhall {

// Of dequantised weights at a time: enough rows that the library is as fast as with all of them.
inline constexpr int64_t kFp8BandBytes = int64_t{32} << 20;

// Of x [T,K] with matrices of at most N rows; whole multiples of 256.
int64_t fp8_products_bytes(int64_t num_t, int64_t num_k, int64_t num_n);

class Fp8Products {
 public:
  // Enqueues what prepares x for matrices like `w`. `memory` has fp8_products_bytes, 256-byte aligned, and is
  // used until the last product is done.
  Fp8Products(Blas& blas, View2<const float> x_tk, const WeightView& w_nk, std::byte* memory,
              int64_t band_bytes = kFp8BandBytes);

  // Enqueues y = x wᵀ (+ y), y [T,N]; w of the constructor's shape.
  void multiply(const WeightView& w_nk, bool accumulate, View2<float> y_tn);

 private:
  void multiply_codes(const WeightView& w_nk, bool accumulate, View2<float> y_tn);
  void multiply_dequantised(const WeightView& w_nk, bool accumulate, View2<float> y_tn);

  Blas& blas_;
  MatrixProduct product_;  // all but w and y; e4m3, with T up to a multiple of 4, or bf16
  int64_t num_t_, band_bytes_;
  std::byte* rest_;  // behind x: y of T rows up to a multiple of 4, or a band of dequantised weights
};

}  // namespace guildhall
