// expert_loader.h: loads the experts of a placement on a thread of its own and tells how far it is.
// Owner: the io thread of the control service; `done` is called on the loading thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>
#include <variant>

#include "base/status.h"
#include "experts/cold_experts.h"
#include "experts/experts_of_layer.h"
#include "model/spec.h"
#include "model/weights.h"

namespace guildhall {

struct ExpertLoaderOptions {
  std::filesystem::path model_path;
  LoadMode mode = LoadMode::checkpoint;
  int64_t memory_limit = 0;               // bytes; 0: none
  double memory_margin = 0;               // part of a device's memory that stays free
  DeviceMemory* device = &host_memory();  // borrowed; where the experts go
  OffloadMode offload = OffloadMode::none;
};

// All of a placement's experts, or where they are while they are not in memory.
using LoadedExperts = std::variant<std::shared_ptr<const ExpertStore>, std::shared_ptr<ColdExperts>>;

// As the options say. `spec` and the options' device are borrowed; blocks.
Result<LoadedExperts> load_experts(const ExpertLoaderOptions& options, const ModelSpec& spec,
                                   const ExpertsOfLayer& experts_l, LoadProgress& progress);

class ExpertLoader {
 public:
  using Done = std::function<void(Result<LoadedExperts>)>;

  // Starts loading. `spec` is borrowed.
  ExpertLoader(ExpertLoaderOptions options, const ModelSpec& spec, ExpertsOfLayer experts, Done done);
  ~ExpertLoader();  // cancels and waits

  const ExpertsOfLayer& experts() const { return experts_; }
  int64_t bytes_done() const { return progress_.bytes_done; }
  int64_t bytes_total() const { return progress_.bytes_total; }

 private:
  ExpertsOfLayer experts_;
  LoadProgress progress_;
  std::thread thread_;
};

// resource_exhausted, with the arithmetic, when `experts` take more than `limit` bytes.
Result<void> check_memory(const ModelSpec& spec, const ExpertsOfLayer& experts, int64_t limit);
// The same for a device that has not so much free beside the part of it that stays free. The host's memory is
// looked at when it is taken.
Result<void> check_device_memory(const ModelSpec& spec, const ExpertsOfLayer& experts,
                                 const DeviceMemory& device, double margin);
Result<void> check_device_room(int64_t count, int64_t each, const DeviceMemory& device, double margin);

}  // namespace guildhall
