// blas_emulated.cc: plain loops in the place of cuBLASLt, in the order of the stream.
#include <vector>

#include "kernels/cuda/blas.h"
#include "tests/emulation/emulator.h"

namespace guildhall {
namespace {

float element(const void* data, DType dtype, int64_t i) {
  return dtype == DType::f32 ? static_cast<const float*>(data)[i]
                             : to_float(static_cast<const bf16*>(data)[i]);
}

void multiply_now(const MatrixProduct& p) {
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t t = 0; t < p.num_t; ++t)
      for (int64_t n = 0; n < p.num_n; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < p.num_k; ++k)
          sum += element(p.x, p.dtype, b * p.x_step + t * p.x_stride + k) *
                 element(p.w, p.dtype, b * p.w_step + n * p.num_k + k);
        float& y = p.y[b * p.y_step + t * p.y_stride + n];
        y = p.accumulate ? y + sum : sum;
      }
}

}  // namespace

struct Blas::Library {};

Blas::Blas(DeviceMemory& memory, CudaStream stream, std::unique_ptr<Library> library)
    : memory_(memory), stream_(stream), library_(std::move(library)) {}
Blas::~Blas() = default;

Result<std::unique_ptr<Blas>> Blas::create(DeviceMemory& memory, CudaStream stream, int64_t scratch_bytes) {
  std::unique_ptr<Blas> blas(new Blas(memory, stream, nullptr));
  GH_TRY(blas->reserve(scratch_bytes));
  return blas;
}

void Blas::multiply(const MatrixProduct& product) {
  emulation::enqueue(stream_, [product] {
    multiply_now(product);
    return true;
  });
}

void Blas::multiply_all(std::span<const MatrixProduct> products) {
  for (const MatrixProduct& product : products) multiply(product);
}

}  // namespace guildhall
