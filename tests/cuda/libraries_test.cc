// libraries_test.cc: the functions of cuBLASLt and NCCL reach the real libraries, which the program does not
// link. No device is needed: these do not touch one.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <gtest/gtest.h>
#include <nccl.h>

namespace guildhall {
namespace {

TEST(CublasLt, FunctionsReachTheLibraryAfterTheFirstCreate) {
  cublasLtHandle_t handle = nullptr;
  const cublasStatus_t created =
      cublasLtCreate(&handle);  // fails where there is no device, with the library open
  ASSERT_STRNE(cublasLtGetStatusString(created), "the library is not loaded");
  EXPECT_GE(cublasLtGetVersion() / 10000, size_t{CUBLAS_VER_MAJOR});
  cublasLtMatrixLayout_t layout = nullptr;
  ASSERT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, 64, 32, 64), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatrixLayoutDestroy(layout), CUBLAS_STATUS_SUCCESS);
  if (handle != nullptr) {
    EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS);
  }
}

TEST(Cublas, FunctionsReachTheLibraryAfterTheFirstCreate) {
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS) {
    EXPECT_EQ(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
  } else {  // no device, with the library open
    EXPECT_EQ(cublasDestroy(nullptr), CUBLAS_STATUS_NOT_INITIALIZED);
  }
}

TEST(Nccl, FunctionsReachTheLibrary) {
  EXPECT_STREQ(ncclGetErrorString(ncclSuccess), "no error");
  ASSERT_STREQ(ncclGetLastError(nullptr), "");
  EXPECT_EQ(ncclGroupStart(), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
}

}  // namespace
}  // namespace guildhall
