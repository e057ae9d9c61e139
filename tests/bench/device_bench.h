// device_bench.h: what the device's benchmarks share: arrays on the device, times between events, and the
// rate of a copy within the device that memory-bound kernels are held against.
#pragma once

#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/view.h"

namespace guildhall {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host) : size_(host.size()) {
    cuda_must(cudaMalloc(&data_, size_ * sizeof(T)), "cudaMalloc");
    cuda_must(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  explicit DeviceArray(int64_t size) : size_(static_cast<size_t>(size)) {  // zeros
    cuda_must(cudaMalloc(&data_, size_ * sizeof(T)), "cudaMalloc");
    cuda_must(cudaMemset(data_, 0, size_ * sizeof(T)), "cudaMemset");
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  operator std::span<T>() const { return {data_, size_}; }
  operator std::span<const T>() const { return {data_, size_}; }
  View2<T> rows(int64_t rows) const { return {data_, rows, static_cast<int64_t>(size_) / rows}; }
  View3<T> heads(int64_t rows, int64_t heads) const {
    return {data_, rows, heads, static_cast<int64_t>(size_) / rows / heads};
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

inline std::vector<float> random_floats(int64_t n) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-3, 3);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = uniform(generator);
  return x;
}
inline std::vector<int32_t> random_below(int64_t n, int64_t bound) {
  std::mt19937 generator(2);
  std::vector<int32_t> x(static_cast<size_t>(n));
  for (int32_t& v : x) v = static_cast<int32_t>(generator() % static_cast<uint64_t>(bound));
  return x;
}

// Seconds that `enqueue` takes on the device, between two events.
inline double device_seconds(const std::function<void()>& enqueue) {
  cudaEvent_t begin, end;
  cuda_must(cudaEventCreate(&begin), "cudaEventCreate");
  cuda_must(cudaEventCreate(&end), "cudaEventCreate");
  cuda_must(cudaEventRecord(begin, nullptr), "cudaEventRecord");
  enqueue();
  cuda_must(cudaEventRecord(end, nullptr), "cudaEventRecord");
  cuda_must(cudaEventSynchronize(end), "cudaEventSynchronize");
  float ms = 0;
  cuda_must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return ms * 1e-3;
}

// Bytes read and written per second by a copy within the device: the median of a few.
inline double copy_bytes_per_s() {
  static const double measured = [] {
    constexpr size_t kBytes = size_t{1} << 30;
    const DeviceArray<char> from(kBytes), to(kBytes);
    std::vector<double> seconds;
    for (int i = 0; i < 9; ++i)
      seconds.push_back(device_seconds([&] {
        cuda_must(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, nullptr),
                  "cudaMemcpyAsync");
      }));
    std::sort(seconds.begin(), seconds.end());
    const double rate = 2.0 * kBytes / seconds[seconds.size() / 2];
    cudaDeviceProp properties;
    cuda_must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    std::printf("probe: %s copy=%.1f GB/s\n", properties.name, rate / 1e9);
    return rate;
  }();
  return measured;
}

// The median of a launch's seconds. One iteration is kLaunches launches, so that the time between two is part
// of what is measured.
inline double measured_seconds(benchmark::State& state, const std::function<void()>& kernel) {
  constexpr int kLaunches = 20;
  kernel();
  std::vector<double> seconds;
  for (auto _ : state) {
    const double all = device_seconds([&] {
      for (int i = 0; i < kLaunches; ++i) kernel();
    });
    state.SetIterationTime(all);
    seconds.push_back(all / kLaunches);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  state.counters["us"] = median * 1e6;
  return median;
}

// A kernel that is bound by the bytes that it reads and writes.
inline void measure(benchmark::State& state, int64_t bytes, const std::function<void()>& kernel) {
  const double copy = copy_bytes_per_s();
  const double seconds = measured_seconds(state, kernel);
  state.counters["GB/s"] = static_cast<double>(bytes) / seconds / 1e9;
  state.counters["%copy"] = 100 * static_cast<double>(bytes) / seconds / copy;
}

}  // namespace guildhall
