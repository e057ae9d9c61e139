// blas_cublas.cc: products by cuBLASLt. Which algorithm serves a shape is asked once and kept.
#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "base/check.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/grouped_cublas.h"

namespace guildhall {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS takes for itself on Hopper

// Shapes and types were checked before, so a failure is a bug or a broken device.
void must(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  std::fprintf(stderr, "%s: %s\n", call, cublasLtGetStatusString(status));
  std::abort();
}

cudaDataType_t library_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The library sees columns: yᵀ [N,T] = w [N,K] xᵀ [K,T], where our row-major w is its transposed one.
class Plan {
 public:
  explicit Plan(const MatrixProduct& p)
      : w_(layout(library_type(p.dtype), p.num_k, p.num_n, p.num_k, p.batch, p.w_step)),
        x_(layout(library_type(p.dtype), p.num_k, p.num_t, p.x_stride, p.batch, p.x_step)),
        y_(layout(CUDA_R_32F, p.num_n, p.num_t, p.y_stride, p.batch, p.y_step)) {
    // fp32 in fp32: no TF32, whose 10 bits would not match the CPU's results.
    must(cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    must(
        cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "cublasLtMatmulDescSetAttribute(TRANSA)");
  }
  ~Plan() {
    for (cublasLtMatrixLayout_t one : {w_, x_, y_}) cublasLtMatrixLayoutDestroy(one);
    cublasLtMatmulDescDestroy(product_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // The library's best guess for this shape, at pointers aligned like those of `p`.
  bool find_algorithm(cublasLtHandle_t handle, const MatrixProduct& p,
                      cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulPreference_t preference = nullptr;
    must(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      must(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
           "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<size_t>(kWorkspaceBytes));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.w));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.x));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.y));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.y));
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, product_, w_, x_, y_, y_, preference, 1, &result, &found);
    must(cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
    algorithm = result.algo;
    return status == CUBLAS_STATUS_SUCCESS && found > 0;
  }

  cublasStatus_t run(cublasLtHandle_t handle, const MatrixProduct& p, const cublasLtMatmulAlgo_t& algorithm,
                     std::byte* workspace, CudaStream stream) const {
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    return cublasLtMatmul(handle, product_, &alpha, p.w, w_, p.x, x_, &beta, p.y, y_, p.y, y_, &algorithm,
                          workspace, kWorkspaceBytes, stream);
  }

  // The largest power of two that divides an address, as far as the library cares.
  static uint32_t alignment(const void* p) {
    const auto address = reinterpret_cast<uintptr_t>(p) | 256;
    return static_cast<uint32_t>(address & -address);
  }

 private:
  static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t stride,
                                       int64_t batch, int64_t step) {
    cublasLtMatrixLayout_t made = nullptr;
    must(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                    stride),
         "cublasLtMatrixLayoutCreate");
    if (batch == 1) return made;
    const auto count = static_cast<int32_t>(batch);
    must(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
         "cublasLtMatrixLayoutSetAttribute(BATCH_COUNT)");
    must(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                          sizeof step),
         "cublasLtMatrixLayoutSetAttribute(STRIDED_BATCH_OFFSET)");
    return made;
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t w_, x_, y_;
};

// What an algorithm is chosen for.
using ShapeKey = std::array<int64_t, 12>;
ShapeKey key_of(const MatrixProduct& p) {
  return {static_cast<int64_t>(p.dtype),
          p.num_t,
          p.num_n,
          p.num_k,
          p.x_stride,
          p.y_stride,
          p.batch,
          p.x_step,
          p.y_step,
          Plan::alignment(p.w),
          Plan::alignment(p.x),
          Plan::alignment(p.y)};
}

}  // namespace

struct Blas::Library {
  cublasLtHandle_t handle = nullptr;
  MemoryBlock workspace;
  std::map<ShapeKey, cublasLtMatmulAlgo_t> algorithms;
  std::optional<GroupedProducts> grouped;

  ~Library() {
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  const cublasLtMatmulAlgo_t& algorithm(const MatrixProduct& p) {
    const auto [at, is_new] = algorithms.try_emplace(key_of(p));
    if (is_new && !Plan(p).find_algorithm(handle, p, at->second)) {
      std::fprintf(stderr, "cublasLtMatmulAlgoGetHeuristic: nothing for T=%lld N=%lld K=%lld %s\n",
                   static_cast<long long>(p.num_t), static_cast<long long>(p.num_n),
                   static_cast<long long>(p.num_k), to_string(p.dtype).data());
      std::abort();
    }
    return at->second;
  }
};

Blas::Blas(DeviceMemory& memory, CudaStream stream, std::unique_ptr<Library> library)
    : memory_(memory), stream_(stream), library_(std::move(library)) {}
Blas::~Blas() = default;

Result<std::unique_ptr<Blas>> Blas::create(DeviceMemory& memory, CudaStream stream, int64_t scratch_bytes) {
  auto library = std::make_unique<Library>();
  if (const cublasStatus_t status = cublasLtCreate(&library->handle); status != CUBLAS_STATUS_SUCCESS)
    return Status{Code::unsupported,
                  fmt::format("cublasLtCreate: {}; install cuBLAS of CUDA {}, or set device: cpu",
                              cublasLtGetStatusString(status), CUBLAS_VER_MAJOR)};
  GH_ASSIGN(library->workspace, memory.allocate(kWorkspaceBytes));
  library->grouped.emplace(memory, stream,
                           std::span(library->workspace.get(), static_cast<size_t>(kWorkspaceBytes)));
  std::unique_ptr<Blas> blas(new Blas(memory, stream, std::move(library)));
  GH_TRY(blas->reserve(scratch_bytes));
  return blas;
}

void Blas::multiply(const MatrixProduct& p) {
  if (p.num_t == 0 || p.num_n == 0) return;
  Library& l = *library_;
  // The bucket's algorithm where it takes this very shape too (nearly always), else one of its own.
  MatrixProduct bucket = p;
  bucket.num_t = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(p.num_t)));
  const Plan plan(p);
  const cublasStatus_t status = plan.run(l.handle, p, l.algorithm(bucket), l.workspace.get(), stream_);
  if (status == CUBLAS_STATUS_SUCCESS) return;
  must(plan.run(l.handle, p, l.algorithm(p), l.workspace.get(), stream_), "cublasLtMatmul");
}

void Blas::multiply_all(std::span<const MatrixProduct> products) {
  if (products.size() > 1 && library_->grouped->run(products)) return;
  for (const MatrixProduct& product : products) multiply(product);
}

}  // namespace guildhall
