// device_array.h: arrays and matrices on the device for kernel tests: uploaded, downloaded, and surrounded by
// canaries, also between the rows of a matrix, so that a write beside them shows. The same sources run under
// the host emulation and on a device.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/view.h"

#if defined(GUILDHALL_CUDA_EMULATED)
#include "tests/emulation/emulator.h"
#endif

namespace guildhall {

inline void expect_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) FAIL() << what << ": " << cudaGetErrorString(error);
}

// The body of every suite of kernels: once per seed. Under emulation a seed decides in which order threads,
// blocks and streams take turns; a device takes its own.
class CudaKernels : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
#if defined(GUILDHALL_CUDA_EMULATED)
    emulation::set_seed(GetParam());
#endif
  }
};
#if defined(GUILDHALL_CUDA_EMULATED)
inline const auto kSeeds = testing::Values<uint64_t>(1, 2, 3);
#else
inline const auto kSeeds = testing::Values<uint64_t>(0);
#endif

// `shift`: by how many elements the array misses a 256-byte boundary.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::span<const T> host, size_t shift = 0) : size_(host.size()), shift_(shift) {
    std::vector<unsigned char> image(whole_bytes(), kCanary);
    if (size_ > 0) std::memcpy(image.data() + first_byte(), host.data(), size_ * sizeof(T));
    expect_cuda(cudaMalloc(&memory_, whole_bytes()), "cudaMalloc");
    expect_cuda(cudaMemcpy(memory_, image.data(), whole_bytes(), cudaMemcpyHostToDevice), "upload");
  }
  DeviceArray(const std::vector<T>& host, size_t shift = 0) : DeviceArray(std::span<const T>(host), shift) {}
  ~DeviceArray() { cudaFree(memory_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return reinterpret_cast<T*>(memory_ + first_byte()); }
  std::span<T> span() const { return {data(), size_}; }
  operator std::span<T>() const { return span(); }
  operator std::span<const T>() const { return span(); }

  // Waits for the device.
  std::vector<T> download() const {
    std::vector<unsigned char> image(whole_bytes());
    expect_cuda(cudaMemcpy(image.data(), memory_, whole_bytes(), cudaMemcpyDeviceToHost), "download");
    for (size_t i = 0; i < image.size(); ++i) {
      if (i == first_byte()) i += size_ * sizeof(T);
      if (i < image.size() && image[i] != kCanary) {
        ADD_FAILURE() << "a write at byte "
                      << static_cast<long long>(i) - static_cast<long long>(first_byte())
                      << " of an array of " << size_ * sizeof(T) << " bytes";
        break;
      }
    }
    std::vector<T> host(size_);
    if (size_ > 0) std::memcpy(host.data(), image.data() + first_byte(), size_ * sizeof(T));
    return host;
  }

 private:
  static constexpr size_t kGuardBytes = 512;
  static constexpr unsigned char kCanary = 0xa5;
  size_t first_byte() const { return kGuardBytes + shift_ * sizeof(T); }
  size_t whole_bytes() const { return first_byte() + size_ * sizeof(T) + kGuardBytes; }

  size_t size_, shift_;
  unsigned char* memory_ = nullptr;
};

// How a matrix lies: elements between rows, and off alignment.
struct Layout {
  int64_t gap = 0;
  size_t shift = 0;
};
inline const Layout kLayouts[] = {{0, 0}, {8, 0}, {5, 1}};  // dense; strided and aligned; neither

// Rows with gaps, whose bytes must stay. Owns the memory of its views.
template <class T>
class DeviceMatrix {
 public:
  DeviceMatrix(std::span<const T> dense, int64_t rows, int64_t cols, Layout layout = {})
      : rows_(rows), cols_(cols), stride_(cols + layout.gap), array_(spread(dense), layout.shift) {}
  DeviceMatrix(const std::vector<T>& dense, int64_t rows, int64_t cols, Layout layout = {})
      : DeviceMatrix(std::span<const T>(dense), rows, cols, layout) {}

  View2<T> view() const { return {array_.data(), rows_, cols_, stride_}; }
  operator View2<T>() const { return view(); }
  operator View2<const T>() const { return view(); }
  // As [rows, heads, cols / heads].
  View3<T> heads(int64_t heads) const {
    return {array_.data(), rows_, heads, cols_ / heads, stride_, cols_ / heads};
  }

  // The rows without gaps. Waits for the device.
  std::vector<T> download() const {
    const std::vector<T> spread_rows = array_.download();
    std::vector<T> dense;
    const T untouched = gap_element();
    bool gaps_held = true;
    for (int64_t r = 0; r < rows_; ++r) {
      const T* row = spread_rows.data() + r * stride_;
      dense.insert(dense.end(), row, row + cols_);
      for (int64_t c = cols_; c < stride_; ++c) gaps_held &= std::memcmp(row + c, &untouched, sizeof(T)) == 0;
    }
    EXPECT_TRUE(gaps_held) << "a write between the rows";
    return dense;
  }

 private:
  static T gap_element() {
    T element;
    std::memset(static_cast<void*>(&element), 0x5a, sizeof(T));
    return element;
  }
  std::vector<T> spread(std::span<const T> dense) const {
    std::vector<T> rows(static_cast<size_t>(rows_ * stride_), gap_element());
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c)
        rows[static_cast<size_t>(r * stride_ + c)] = dense[static_cast<size_t>(r * cols_ + c)];
    return rows;
  }

  int64_t rows_, cols_, stride_;
  DeviceArray<T> array_;
};

template <class T>
View2<const T> as_view(const std::vector<T>& x, int64_t rows, int64_t cols) {
  return {x.data(), rows, cols};
}
template <class T>
View2<T> as_view(std::vector<T>& x, int64_t rows, int64_t cols) {
  return {x.data(), rows, cols};
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace guildhall
