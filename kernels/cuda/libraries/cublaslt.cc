// cublaslt.cc: cuBLASLt's functions for programs that must start where it is missing: half a gigabyte that a
// machine without a GPU does not have. The first cublasLtCreate() opens the library. A function that is not
// in the list yet is an undefined reference when linking.
#include <cublasLt.h>

#include "base/lazy_library.h"
#include "base/log.h"

// clang-format off
#define GH_CUBLASLT_FUNCTIONS(X)                                                                             \
  X(cublasLtDestroy) X(cublasLtGetVersion) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic)               \
  X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute)                 \
  X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceDestroy)                                       \
  X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy)       \
  X(cublasLtMatrixLayoutSetAttribute)
GH_CUBLASLT_FUNCTIONS(GH_LAZY_FUNCTION)
// clang-format on

namespace guildhall {
namespace {

constexpr LazyLibrary kLibrary = {
    "libcublasLt.so." GH_LAZY_QUOTED(CUBLAS_VER_MAJOR), "/usr/local/cuda/lib64",
    "CUDA's toolkit or pip's nvidia-cublas has it: name its folder in LD_LIBRARY_PATH"};

struct CublasLt {
  Result<void> loaded;
  cublasStatus_t (*create)(cublasLtHandle_t*) = nullptr;
  const char* (*status_string)(cublasStatus_t) = nullptr;
};

const CublasLt& cublaslt() {
  static const CublasLt library = [] {
    CublasLt made;
    const LazyFunction functions[] = {
        {"cublasLtCreate", reinterpret_cast<void**>(&made.create)},
        {"cublasLtGetStatusString", reinterpret_cast<void**>(&made.status_string)},
        GH_CUBLASLT_FUNCTIONS(GH_LAZY_ROW)};
    made.loaded = load_library(kLibrary, functions);
    return made;
  }();
  return library;
}

}  // namespace
}  // namespace guildhall

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  const guildhall::CublasLt& library = guildhall::cublaslt();
  if (!library.loaded.has_error()) return library.create(handle);
  guildhall::log_error("cublaslt_missing", "{}", library.loaded.error().message);
  return CUBLAS_STATUS_NOT_INITIALIZED;
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  const guildhall::CublasLt& library = guildhall::cublaslt();
  return library.loaded.has_error() ? "the library is not loaded" : library.status_string(status);
}
