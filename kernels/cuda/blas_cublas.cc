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

cudaDataType_t library_type(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : dtype == DType::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

// Scales per block of 128 came with cuBLAS 12.9, for Hopper.
constexpr size_t kBlockScalesVersion = 120900;
#if CUBLAS_VERSION >= 120900
#define GH_BLOCK_SCALES 1
#else
#define GH_BLOCK_SCALES 0
#endif
bool has_block_scales() {
  int device = 0, major = 0, minor = 0;
  return GH_BLOCK_SCALES && cublasLtGetVersion() >= kBlockScalesVersion &&
         cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0;
}

// The library sees columns: yᵀ [N,T] = w [N,K] xᵀ [K,T], where our row-major w is its transposed one.
class Plan {
 public:
  explicit Plan(const MatrixProduct& p)
      : w_(layout(library_type(p.dtype), p.num_k, p.num_n, p.num_k, p.batch, p.w_step)),
        x_(layout(library_type(p.dtype), p.num_k, p.num_t, p.x_stride, p.batch, p.x_step)),
        y_(layout(CUDA_R_32F, p.num_n, p.num_t, p.y_stride, p.batch, p.y_step)) {
    // fp32 in fp32: no TF32, whose 10 bits would not match the CPU's results.
    must(cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T, "cublasLtMatmulDescSetAttribute(TRANSA)");
#if GH_BLOCK_SCALES
    if (p.dtype == DType::e4m3) set_block_scales(p);
#endif
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
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value, const char* call) {
    must(cublasLtMatmulDescSetAttribute(product_, attribute, &value, sizeof value), call);
  }
#if GH_BLOCK_SCALES
  void set_block_scales(const MatrixProduct& p) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
        "cublasLtMatmulDescSetAttribute(A_SCALE_MODE)");
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
        "cublasLtMatmulDescSetAttribute(B_SCALE_MODE)");
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scale_bb,
        "cublasLtMatmulDescSetAttribute(A_SCALE_POINTER)");
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scale_gt,
        "cublasLtMatmulDescSetAttribute(B_SCALE_POINTER)");
  }
#endif
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

// Counts of rows share an algorithm up to the next power of two.
MatrixProduct bucket_of(const MatrixProduct& p) {
  MatrixProduct bucket = p;
  bucket.num_t = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(p.num_t)));
  return bucket;
}

}  // namespace

struct Blas::Library {
  cublasLtHandle_t handle = nullptr;
  MemoryBlock workspace;
  std::map<ShapeKey, std::optional<cublasLtMatmulAlgo_t>> algorithms;  // none: the library has nothing
  std::optional<GroupedProducts> grouped;
  bool block_scales = false;

  ~Library() {
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  const std::optional<cublasLtMatmulAlgo_t>& find(const MatrixProduct& p) {
    const auto [at, is_new] = algorithms.try_emplace(key_of(p));
    cublasLtMatmulAlgo_t found;
    if (is_new && Plan(p).find_algorithm(handle, p, found)) at->second = found;
    return at->second;
  }
  const cublasLtMatmulAlgo_t& algorithm(const MatrixProduct& p) {
    const std::optional<cublasLtMatmulAlgo_t>& found = find(p);
    if (!found) {
      std::fprintf(stderr, "cublasLtMatmulAlgoGetHeuristic: nothing for T=%lld N=%lld K=%lld %s\n",
                   static_cast<long long>(p.num_t), static_cast<long long>(p.num_n),
                   static_cast<long long>(p.num_k), to_string(p.dtype).data());
      std::abort();
    }
    return *found;
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
  library->block_scales = has_block_scales();
  GH_ASSIGN(library->workspace, memory.allocate(kWorkspaceBytes));
  library->grouped.emplace(memory, stream,
                           std::span(library->workspace.get(), static_cast<size_t>(kWorkspaceBytes)));
  std::unique_ptr<Blas> blas(new Blas(memory, stream, std::move(library)));
  GH_TRY(blas->reserve(scratch_bytes));
  return blas;
}

bool Blas::takes(const MatrixProduct& p) {
  return library_->block_scales && library_->find(bucket_of(p)).has_value();
}

void Blas::multiply(const MatrixProduct& p) {
  if (p.num_t == 0 || p.num_n == 0) return;
  Library& l = *library_;
  // The bucket's algorithm where it takes this very shape too (nearly always), else one of its own.
  const Plan plan(p);
  const cublasStatus_t status = plan.run(l.handle, p, l.algorithm(bucket_of(p)), l.workspace.get(), stream_);
  if (status == CUBLAS_STATUS_SUCCESS) return;
  must(plan.run(l.handle, p, l.algorithm(p), l.workspace.get(), stream_), "cublasLtMatmul");
}

void Blas::multiply_all(std::span<const MatrixProduct> products) {
  if (products.size() > 1 && library_->grouped->run(products)) return;
  for (const MatrixProduct& product : products) multiply(product);
}

}  // namespace guildhall
