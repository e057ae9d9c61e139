#include "kernels/make_ops.h"

#include <fmt/format.h>

#include <charconv>

#include "base/log.h"
#include "kernels/cpu_ops.h"
#include "kernels/cuda/cuda_ops.h"

namespace guildhall {
namespace {

constexpr std::string_view kCuda = "cuda";

// N of "cuda:N", 0 of "cuda"; -1: neither.
int cuda_index(std::string_view device) {
  if (device == kCuda) return 0;
  if (!device.starts_with("cuda:")) return -1;
  device.remove_prefix(kCuda.size() + 1);
  int index = -1;
  const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), index);
  return error == std::errc() && end == device.data() + device.size() ? index : -1;
}

// A GPU that cannot be used (too old, no cuBLAS) is said and passed over; one that is full is an error.
Result<std::unique_ptr<Ops>> make_best_ops(TeamOptions team) {
  if (num_cuda_devices() == 0) return make_cpu_ops(team);
  Result<std::unique_ptr<Ops>> gpu = make_cuda_ops(0, {.team = team});
  if (!gpu.has_error() || gpu.error().code != Code::unsupported) return gpu;
  log_warn("device_not_used", "device=auto: {}; this process uses the CPU", gpu.error().message);
  return make_cpu_ops(team);
}

}  // namespace

std::vector<std::string> rank_devices(std::string_view device, int num_ranks, bool gpus_meet) {
  if (num_ranks == 1) return {std::string(device)};
  int first = cuda_index(device);
  if (device == "auto" && gpus_meet && num_cuda_devices() >= num_ranks) first = 0;
  std::vector<std::string> devices;
  for (int r = 0; r < num_ranks; ++r)
    devices.push_back(first < 0 ? "cpu" : fmt::format("{}:{}", kCuda, first + r));
  return devices;
}

Result<std::unique_ptr<Ops>> make_ops(std::string_view device, TeamOptions team) {
  if (device == "cpu") return make_cpu_ops(team);
  if (device == "auto") return make_best_ops(team);
  const int index = cuda_index(device);
  if (index < 0)
    return Status{Code::invalid_argument, fmt::format("{}: there are auto, cpu, cuda and cuda:N", device)};
  return make_cuda_ops(index, {.team = team});
}

}  // namespace guildhall
