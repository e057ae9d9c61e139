// emulation_test.cc: the host emulation does what CUDA does, and shows the mistakes it promises to show.
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace guildhall {
namespace {

template <class T>
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t n) : n_(n) { EXPECT_EQ(cudaMalloc(&data_, n * sizeof(T)), cudaSuccess); }
  ~DeviceMemory() { cudaFree(data_); }
  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> copy(n_);
    cudaMemcpy(copy.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return copy;
  }

 private:
  size_t n_;
  T* data_ = nullptr;
};

__global__ void number_threads(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = static_cast<int>(thread + 1000 * block);
}

TEST(Emulation, EveryThreadOfEveryBlockRunsOnce) {
  DeviceMemory<int> out(2 * 3 * 2 * 5 * 3 * 2);
  launch(number_threads, dim3(2, 3, 2), dim3(5, 3, 2), 0, nullptr, out.get());
  const auto got = out.host();
  for (int block = 0; block < 12; ++block)
    for (int thread = 0; thread < 30; ++thread)
      EXPECT_EQ(got[static_cast<size_t>(block * 30 + thread)], thread + 1000 * block);
}

__global__ void reverse(const int* in, int* out) {
  GH_DYNAMIC_SHARED(int, held);
  held[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}
__global__ void reverse_without_barrier(const int* in, int* out) {
  GH_DYNAMIC_SHARED(int, held);
  held[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

std::vector<int> run_reverse(void (*kernel)(const int*, int*), unsigned n, uint64_t seed) {
  emulation::set_seed(seed);
  std::vector<int> numbers(n);
  for (unsigned i = 0; i < n; ++i) numbers[i] = static_cast<int>(i);
  DeviceMemory<int> in(n), out(n);
  cudaMemcpy(in.get(), numbers.data(), n * sizeof(int), cudaMemcpyHostToDevice);
  launch(kernel, 1, n, n * sizeof(int), nullptr, in.get(), out.get());
  return out.host();
}

TEST(Emulation, BarriersHoldInEveryOrder) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto got = run_reverse(reverse, 77, seed);
    for (int i = 0; i < 77; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], 76 - i);
  }
}
TEST(Emulation, AMissingBarrierShows) {
  const auto right = run_reverse(reverse, 77, 0);
  EXPECT_NE(run_reverse(reverse_without_barrier, 77, 0), right);
}

__global__ void warp_operations(float* sums, unsigned* ballots, int* shuffled) {
  const auto i = threadIdx.x;
  const float sum = warp_sum(static_cast<float>(i));
  const unsigned ballot = __ballot_sync(kFullWarp, i % 3 == 0);
  if (i % 32 < 16)
    shuffled[i] = __shfl_down_sync(0xffffu, static_cast<int>(i), 1, 16);
  else
    shuffled[i] = __shfl_sync(0xffff0000u, static_cast<int>(i), 20);
  sums[i] = sum;
  ballots[i] = ballot;
}

TEST(Emulation, LanesExchange) {
  DeviceMemory<float> sums(64);
  DeviceMemory<unsigned> ballots(64);
  DeviceMemory<int> shuffled(64);
  launch(warp_operations, 1, 64, 0, nullptr, sums.get(), ballots.get(), shuffled.get());
  const auto sum = sums.host();
  const auto ballot = ballots.host();
  const auto lane = shuffled.host();
  for (unsigned i = 0; i < 64; ++i) {
    EXPECT_EQ(sum[i], i < 32 ? 496.0f : 1520.0f);
    EXPECT_EQ(ballot[i], i < 32 ? 0x49249249u : 0x92492492u);
    const unsigned in_warp = i % 32, want = in_warp < 15 ? i + 1 : in_warp == 15 ? i : i / 32 * 32 + 20;
    EXPECT_EQ(lane[i], static_cast<int>(want)) << i;
  }
}

__global__ void block_sums(float* out) {
  const float first = block_sum(1.0f), second = block_sum(static_cast<float>(threadIdx.x));
  out[threadIdx.x] = first + 1000 * second;
}
TEST(Emulation, BlocksReduce) {
  DeviceMemory<float> out(96);
  launch(block_sums, 1, 96, 0, nullptr, out.get());
  for (float x : out.host()) EXPECT_EQ(x, 96.0f + 1000 * 4560);
}

// --- Mistakes

__global__ void half_at_the_barrier() {
  if (threadIdx.x < 8) __syncthreads();
}
__global__ void write_behind_shared() {
  GH_SHARED(float, held, [8]);
  held[threadIdx.x + 1] = 0;
}
__global__ void write_behind_device(float* out) { out[threadIdx.x + 1] = 0; }

class EmulationDeath : public testing::Test {
 protected:
  EmulationDeath() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(EmulationDeath, ABarrierThatNotAllReach) {
  EXPECT_DEATH((launch(half_at_the_barrier, 1, 32, 0, nullptr), cudaDeviceSynchronize()),
               "8 threads wait at __syncthreads, 0 in warp operations, 24 have returned");
}
TEST_F(EmulationDeath, WritesBehindArrays) {
  EXPECT_DEATH((launch(write_behind_shared, 1, 8, 0, nullptr), cudaDeviceSynchronize()),
               "behind a shared array of 32 bytes|index 8 out of bounds");
  EXPECT_DEATH(
      {
        DeviceMemory<float> out(8);
        launch(write_behind_device, 1, 8, 0, nullptr, out.get());
      },
      "at byte 32 of a device block of 32 bytes|use-after-poison");
}
TEST_F(EmulationDeath, TheHostTouchesDeviceMemory) {
  EXPECT_DEATH(
      {
        DeviceMemory<float> out(8);
        cudaDeviceSynchronize();
        *out.get() = 1;
      },
      "");
}

// --- Streams

__global__ void add_one(int* x) { ++*x; }
__global__ void twice(int* x) { *x *= 2; }

TEST(EmulatedStreams, EventsOrderStreamsAndWithoutThemOrdersDiffer) {
  std::set<int> with, without;
  for (uint64_t seed = 0; seed < 20; ++seed)
    for (bool wait : {true, false}) {
      emulation::set_seed(seed);
      cudaStream_t a, b;
      cudaEvent_t event;
      cudaStreamCreate(&a), cudaStreamCreate(&b), cudaEventCreate(&event);
      DeviceMemory<int> x(1);
      cudaMemset(x.get(), 0, sizeof(int));
      launch(add_one, 1, 1, 0, a, x.get());
      cudaEventRecord(event, a);
      if (wait) cudaStreamWaitEvent(b, event);
      launch(twice, 1, 1, 0, b, x.get());
      cudaDeviceSynchronize();
      (wait ? with : without).insert(x.host()[0]);
      cudaEventDestroy(event), cudaStreamDestroy(a), cudaStreamDestroy(b);
    }
  EXPECT_EQ(with, std::set<int>{2});
  EXPECT_EQ(without, (std::set<int>{1, 2}));
}

TEST(EmulatedStreams, CopiesReadTheirSourceLate) {
  std::set<int> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    emulation::set_seed(seed);
    DeviceMemory<int> x(1);
    int source = 1;
    cudaMemcpyAsync(x.get(), &source, sizeof(int), cudaMemcpyHostToDevice, nullptr);
    source = 2;
    seen.insert(x.host()[0]);
  }
  EXPECT_EQ(seen, (std::set<int>{1, 2}));
}

TEST(EmulatedStreams, AGraphRepeatsWhatWasCapturedOverTwoStreams) {
  cudaStream_t a, b;
  cudaEvent_t forked, joined;
  cudaStreamCreate(&a), cudaStreamCreate(&b), cudaEventCreate(&forked), cudaEventCreate(&joined);
  DeviceMemory<int> x(1);
  cudaMemset(x.get(), 0, sizeof(int));
  ASSERT_EQ(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  launch(add_one, 1, 1, 0, a, x.get());
  cudaEventRecord(forked, a), cudaStreamWaitEvent(b, forked);
  launch(twice, 1, 1, 0, b, x.get());
  cudaEventRecord(joined, b), cudaStreamWaitEvent(a, joined);
  EXPECT_EQ(cudaStreamSynchronize(a), cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaStreamEndCapture(a, &graph), cudaSuccess);
  EXPECT_EQ(x.host()[0], 0);
  cudaGraphInstantiate(&executable, graph), cudaGraphDestroy(graph);
  for (int want : {2, 6, 14}) {
    cudaGraphLaunch(executable, b);
    cudaStreamSynchronize(b);
    EXPECT_EQ(x.host()[0], want);
  }
  cudaGraphExecDestroy(executable);
  cudaEventDestroy(forked), cudaEventDestroy(joined), cudaStreamDestroy(a), cudaStreamDestroy(b);
}

}  // namespace
}  // namespace guildhall
