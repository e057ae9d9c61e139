// decode_device_cuda.cc: the first GPU. Its bandwidth is what a copy within its memory reaches, bytes read
// and bytes written counted.
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>

#include "kernels/cuda/cuda_ops.h"
#include "tests/bench/decode_device.h"

namespace guildhall {
namespace {

constexpr size_t kCopyBytes = size_t{2} << 30;  // far larger than any level-two cache
constexpr int kPasses = 9;

void must(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(fmt::format("{}: {}", call, cudaGetErrorString(error)));
}

class Gpu : public DecodeDevice {
 public:
  explicit Gpu(int threads) : threads_(threads) {
    cudaDeviceProp properties{};
    must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    name_ = properties.name;
    must(cudaMalloc(&from_, kCopyBytes), "cudaMalloc");
    must(cudaMalloc(&to_, kCopyBytes), "cudaMalloc");
    for (cudaEvent_t* event : {&begin_, &end_}) must(cudaEventCreate(event), "cudaEventCreate");
  }
  ~Gpu() override {
    cudaFree(from_);
    cudaFree(to_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  std::string name() const override { return name_; }
  std::function<std::unique_ptr<Ops>()> ops_maker() const override {
    return [threads = threads_] { return make_cuda_ops(0, {.team = {.num_threads = threads}}).value(); };
  }
  const char* bandwidth_of() const override { return "copy"; }

  double bandwidth() override {
    std::array<float, kPasses> ms;
    for (float& pass : ms) {
      must(cudaEventRecord(begin_), "cudaEventRecord");
      must(cudaMemcpyAsync(to_, from_, kCopyBytes, cudaMemcpyDeviceToDevice), "cudaMemcpyAsync");
      must(cudaEventRecord(end_), "cudaEventRecord");
      must(cudaEventSynchronize(end_), "cudaEventSynchronize");
      must(cudaEventElapsedTime(&pass, begin_, end_), "cudaEventElapsedTime");
    }
    std::nth_element(ms.begin(), ms.begin() + kPasses / 2, ms.end());
    return 2.0 * kCopyBytes / (ms[kPasses / 2] * 1e-3);
  }

 private:
  const int threads_;
  std::string name_;
  void *from_ = nullptr, *to_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

std::unique_ptr<DecodeDevice> make_decode_device(int threads) { return std::make_unique<Gpu>(threads); }

// Packed for another machine (tests/gpu/pack), the program is told where its data went.
std::filesystem::path default_decode_model() {
  const char* moved = std::getenv("GUILDHALL_SOURCE_DIR");
  return std::filesystem::path(moved ? moved : GUILDHALL_SOURCE_DIR) / "tests/bench/models/q3moe11b";
}

}  // namespace guildhall
