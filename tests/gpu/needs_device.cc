// needs_device.cc: part of every test with the label gpu. Where there is no GPU it fails before the first
// test and says why: such tests are never skipped.
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace guildhall {
namespace {

// What the child's exit status says; asking in a child leaves this process free to fork before it uses CUDA.
int ask_in_a_child() {
  const pid_t child = fork();
  if (child == 0) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) std::fprintf(stderr, "no CUDA device: %s\n", cudaGetErrorString(error));
    _exit(error == cudaSuccess ? 0 : 1);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

struct NeedsDevice : testing::Environment {
  void SetUp() override {
    if (ask_in_a_child() == 0) return;
    std::fprintf(stderr, "a test with the label gpu fails without a device; leave it out by ctest -LE gpu\n");
    std::exit(1);
  }
};

const auto* const kNeedsDevice = testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
}  // namespace guildhall
