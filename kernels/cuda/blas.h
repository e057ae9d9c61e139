// blas.h: matrix products on one stream of a GPU. The library behind it is cuBLASLt (blas_cublas.cc), and
// cuBLAS for groups (grouped_cublas.h); the host emulation has plain loops
// (tests/emulation/blas_emulated.cc). What both share is in blas.cc. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/device_memory.h"
#include "kernels/dtype.h"

namespace guildhall {

// y[T,N] = x[T,K] w[N,K]ᵀ (+ y); x and w of one type, y and the sums in fp32. `batch` products of one shape
// lie at equal distances (in elements). Rows of w are contiguous.
// e4m3: x and w are codes (fp8.h), with one fp32 scale per row and 128 of K, and per 128x128; T and N are
// multiples of 4, K and x_stride of 16, pointers of 16 bytes, batch is 1 (what cuBLASLt asks for:
// documentation of cuBLAS 13.1, 3.1.4.5).
struct MatrixProduct {
  DType dtype = DType::f32;
  int64_t num_t = 0, num_n = 0, num_k = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* w = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool accumulate = false;
  int64_t batch = 1, x_step = 0, w_step = 0, y_step = 0;
  const float* x_scale_gt = nullptr;  // e4m3: [fp8_groups(K), T]
  const float* w_scale_bb = nullptr;  // e4m3: WeightView::scale_bb
};

class Blas {
 public:
  // Takes the library's workspace from `memory` (which outlives this), and scratch_bytes for scratch().
  // `stream` is one that the memory's releases wait for.
  static Result<std::unique_ptr<Blas>> create(DeviceMemory& memory, CudaStream stream, int64_t scratch_bytes);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  CudaStream stream() const { return stream_; }
  // Whether the device and the library multiply e4m3 of this shape. The library is asked once per shape, as
  // below.
  bool takes(const MatrixProduct& product);
  // Enqueues. The first product of a shape asks the library which algorithm is best (counts of rows share it
  // up to the next power of two); after that nothing is allocated.
  void multiply(const MatrixProduct& product);
  // The same for several of one type, each with batch 1: in one launch where the library can.
  void multiply_all(std::span<const MatrixProduct> products);

  // Memory for what a call of ours puts in between, until the next call; 256-byte aligned. Grows, which
  // allocates: while a graph is recorded that ends the process. reserve() the largest step's at start, or run
  // the work once before it is recorded.
  std::byte* scratch(int64_t bytes);
  Result<void> reserve(int64_t bytes);

 private:
  struct Library;
  Blas(DeviceMemory& memory, CudaStream stream, std::unique_ptr<Library> library);

  DeviceMemory& memory_;
  const CudaStream stream_;
  MemoryBlock scratch_;
  int64_t scratch_bytes_ = 0;
  std::unique_ptr<Library> library_;
};

}  // namespace guildhall
