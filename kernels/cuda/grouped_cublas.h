// grouped_cublas.h: products of different shapes in one call of cuBLAS (cublasGemmGroupedBatchedEx: shapes
// are the host's, pointers the device's). Not every machine has it, and not every release takes these types,
// so run() may say no, and the caller multiplies one by one. One thread.
#pragma once

#include <cublas_v2.h>

#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/blas.h"

namespace guildhall {

class GroupedProducts {
 public:
  // `workspace` is shared with the other calls on the stream. Without the library: an object that says no.
  GroupedProducts(DeviceMemory& memory, CudaStream stream, std::span<std::byte> workspace);
  ~GroupedProducts();
  GroupedProducts(const GroupedProducts&) = delete;
  GroupedProducts& operator=(const GroupedProducts&) = delete;

  // Enqueues all of them, or nothing and false. Of one type, each with batch 1.
  bool run(std::span<const MatrixProduct> products);

 private:
  static constexpr size_t kMostProducts = 2048;  // gate and up of 1024 experts

  CudaStream stream_;
  cublasHandle_t handle_ = nullptr;  // null: cannot
  MemoryBlock pointers_;             // [3, kMostProducts]: w, x, y
  // Of the call, kept for their memory.
  std::vector<cublasOperation_t> transpose_w_, transpose_x_;
  std::vector<int64_t> num_n_, num_t_, num_k_, x_stride_, y_stride_, one_;
  std::vector<float> alpha_, beta_;
  std::vector<const void*> addresses_;
};

}  // namespace guildhall
