// graphs_test.cc: what a stream is told under a key runs as it comes, is then recorded, and then repeated.
#include "kernels/cuda/graphs.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

class CudaGraphsTest : public ::testing::Test {
 protected:
  CudaGraphsTest() {
    cuda_must(cudaMalloc(&bytes_, 2), "cudaMalloc");
    cuda_must(cudaMemset(bytes_, 0, 2), "cudaMemset");
  }
  ~CudaGraphsTest() override { cudaFree(bytes_); }

  // byte 0 -> byte 1, counted.
  void copy(const Ops::RecordKey& key) {
    const auto body = [&] {
      ++num_told_;
      cuda_must(cudaMemcpyAsync(bytes_ + 1, bytes_, 1, cudaMemcpyDeviceToDevice, device_->compute()),
                "cudaMemcpyAsync");
    };
    graphs_.replay(key, body);
  }
  void set(uint8_t value) {
    cuda_must(cudaMemsetAsync(bytes_, value, 1, device_->compute()), "cudaMemsetAsync");
  }
  uint8_t copied() {
    uint8_t host = 0;
    cuda_must(cudaStreamSynchronize(device_->compute()), "cudaStreamSynchronize");
    cuda_must(cudaMemcpy(&host, bytes_ + 1, 1, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return host;
  }

  std::shared_ptr<CudaDevice> device_ = CudaDevice::open(0).value();
  CudaGraphs graphs_{device_->compute()};
  uint8_t* bytes_ = nullptr;
  int num_told_ = 0;
};

TEST_F(CudaGraphsTest, AKeyIsToldTwiceAndThenRepeatedWithWhatIsInMemoryThen) {
  for (const uint8_t value : {1, 2, 3, 4}) {
    set(value);
    copy({7});
    EXPECT_EQ(copied(), value);
  }
  EXPECT_EQ(num_told_, 2);
}

TEST_F(CudaGraphsTest, KeysAreRecordedEachForItself) {
  for (int i = 0; i < 3; ++i) copy({1}), copy({1, 2});
  EXPECT_EQ(num_told_, 4);
}

TEST_F(CudaGraphsTest, WhatWasForgottenIsToldAnew) {
  for (int i = 0; i < 3; ++i) copy({1});
  graphs_.clear();
  set(9);
  copy({1});
  EXPECT_EQ(num_told_, 3);
  EXPECT_EQ(copied(), 9);
}

}  // namespace
}  // namespace guildhall
