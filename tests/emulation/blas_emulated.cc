// blas_emulated.cc: plain loops in the place of cuBLASLt, in the order of the stream.
#include <cuda_runtime.h>

#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/fp8.h"
#include "tests/emulation/emulator.h"

namespace guildhall {
namespace {

float element(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::e4m3) {
    const float one = 1;
    float value = 0;
    from_fp8_ref({static_cast<const uint8_t*>(data) + i, 1}, {&one, 1}, {&value, 1});
    return value;
  }
  return dtype == DType::f32 ? static_cast<const float*>(data)[i]
                             : to_float(static_cast<const bf16*>(data)[i]);
}

// What x[t,k] w[n,k] is multiplied by.
float scale(const MatrixProduct& p, int64_t t, int64_t n, int64_t k) {
  if (p.dtype != DType::e4m3) return 1;
  return p.x_scale_gt[k / kFp8GroupSize * p.num_t + t] *
         p.w_scale_bb[n / kFp8BlockSize * fp8_scale_stride(p.num_k) + k / kFp8BlockSize];
}

void multiply_now(const MatrixProduct& p) {
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t t = 0; t < p.num_t; ++t)
      for (int64_t n = 0; n < p.num_n; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < p.num_k; ++k)
          sum += element(p.x, p.dtype, b * p.x_step + t * p.x_stride + k) *
                 element(p.w, p.dtype, b * p.w_step + n * p.num_k + k) * scale(p, t, n, k);
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

// The library's demands; a GPU of another kind multiplies no codes.
bool Blas::takes(const MatrixProduct& p) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  const auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
  return major == 9 && minor == 0 && p.num_t % 4 == 0 && p.num_n % 4 == 0 && p.num_k % 16 == 0 &&
         p.x_stride % 16 == 0 && p.y_stride % 4 == 0 && p.batch == 1 && aligned(p.x) && aligned(p.w) &&
         aligned(p.y) && aligned(p.x_scale_gt) && aligned(p.w_scale_bb);
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
