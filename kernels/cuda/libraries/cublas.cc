// cublas.cc: of cuBLAS the grouped product, which cuBLASLt does not have; opened by the first cublasCreate()
// as cublaslt.cc does. A program that finds no cuBLAS does without.
#include <cublas_v2.h>

#include "base/lazy_library.h"
#include "base/log.h"

// clang-format off
#define GH_CUBLAS_FUNCTIONS(X)                                                                               \
  X(cublasDestroy_v2) X(cublasGemmGroupedBatchedEx_64) X(cublasSetStream_v2) X(cublasSetWorkspace_v2)
GH_CUBLAS_FUNCTIONS(GH_LAZY_FUNCTION)
// clang-format on

namespace guildhall {
namespace {

constexpr LazyLibrary kLibrary = {
    "libcublas.so." GH_LAZY_QUOTED(CUBLAS_VER_MAJOR), "/usr/local/cuda/lib64",
    "CUDA's toolkit or pip's nvidia-cublas has it: name its folder in LD_LIBRARY_PATH"};

struct Cublas {
  Result<void> loaded;
  cublasStatus_t (*create)(cublasHandle_t*) = nullptr;
};

const Cublas& cublas() {
  static const Cublas library = [] {
    Cublas made;
    const LazyFunction functions[] = {{"cublasCreate_v2", reinterpret_cast<void**>(&made.create)},
                                      GH_CUBLAS_FUNCTIONS(GH_LAZY_ROW)};
    made.loaded = load_library(kLibrary, functions);
    return made;
  }();
  return library;
}

}  // namespace
}  // namespace guildhall

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  const guildhall::Cublas& library = guildhall::cublas();
  if (!library.loaded.has_error()) return library.create(handle);
  guildhall::log_warn("cublas_missing", "{}; experts are multiplied one by one",
                      library.loaded.error().message);
  return CUBLAS_STATUS_NOT_INITIALIZED;
}
