#include "kernels/cuda/grouped_cublas.h"

#include "base/check.h"
#include "base/log.h"
#include "kernels/cuda/store_pointers.h"

namespace guildhall {

GroupedProducts::GroupedProducts(DeviceMemory& memory, CudaStream stream, std::span<std::byte> workspace)
    : stream_(stream) {
  if (cublasCreate(&handle_) != CUBLAS_STATUS_SUCCESS) {
    handle_ = nullptr;
    return;
  }
  auto pointers = memory.allocate(3 * kMostProducts * sizeof(void*));
  if (pointers.has_error() || cublasSetStream(handle_, stream) != CUBLAS_STATUS_SUCCESS ||
      cublasSetWorkspace(handle_, workspace.data(), workspace.size()) != CUBLAS_STATUS_SUCCESS) {
    cublasDestroy(handle_);
    handle_ = nullptr;
    return;
  }
  pointers_ = *std::move(pointers);
}

GroupedProducts::~GroupedProducts() {
  if (handle_ != nullptr) cublasDestroy(handle_);
}

// The library sees columns: yT [N,T] = w [N,K] xT [K,T], where our row-major w is its transposed one.
bool GroupedProducts::run(std::span<const MatrixProduct> products) {
  if (handle_ == nullptr || products.size() > kMostProducts) return false;
  num_n_.clear(), num_t_.clear(), num_k_.clear(), x_stride_.clear(), y_stride_.clear(), beta_.clear();
  const size_t count = products.size();
  addresses_.resize(3 * count);
  for (size_t i = 0; i < count; ++i) {
    const MatrixProduct& p = products[i];
    GH_CHECK(p.batch == 1 && p.dtype == products.front().dtype);
    num_n_.push_back(p.num_n), num_t_.push_back(p.num_t), num_k_.push_back(p.num_k);
    x_stride_.push_back(p.x_stride), y_stride_.push_back(p.y_stride);
    beta_.push_back(p.accumulate ? 1.0f : 0.0f);
    addresses_[i] = p.w, addresses_[count + i] = p.x, addresses_[2 * count + i] = p.y;
  }
  transpose_w_.assign(count, CUBLAS_OP_T), transpose_x_.assign(count, CUBLAS_OP_N);
  alpha_.assign(count, 1.0f), one_.assign(count, 1);
  auto** const there = reinterpret_cast<const void**>(pointers_.get());
  store_pointers_cuda(stream_, addresses_, there);
  const cudaDataType_t type = products.front().dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const cublasStatus_t status = cublasGemmGroupedBatchedEx_64(
      handle_, transpose_w_.data(), transpose_x_.data(), num_n_.data(), num_t_.data(), num_k_.data(),
      alpha_.data(), there, type, num_k_.data(), there + count, type, x_stride_.data(), beta_.data(),
      const_cast<void* const*>(there + 2 * count), CUDA_R_32F, y_stride_.data(), static_cast<int64_t>(count),
      one_.data(), CUBLAS_COMPUTE_32F);
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  log_warn("cublas_grouped_unsupported", "status={}; experts are multiplied one by one",
           static_cast<int>(status));
  cublasDestroy(handle_);
  handle_ = nullptr;
  return false;
}

}  // namespace guildhall
