#include "experts/expert_loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace guildhall {

Result<void> check_memory(const ModelSpec& spec, const ExpertsOfLayer& experts, int64_t limit) {
  const int64_t count = count_of(experts);
  const int64_t each = expert_bytes(spec);
  if (limit == 0 || count * each <= limit) return {};
  return Status{
      Code::resource_exhausted,
      fmt::format("{} experts of {} take {}; experts.workers.memory is {}, which holds {} of them: give this "
                  "worker more memory, add workers, or set experts.offload.mode",
                  count, format_bytes(each), format_bytes(count * each), format_bytes(limit), limit / each)};
}

Result<void> check_device_memory(const ModelSpec& spec, const ExpertsOfLayer& experts,
                                 const DeviceMemory& device, double margin) {
  return check_device_room(count_of(experts), expert_bytes(spec), device, margin);
}

Result<void> check_device_room(int64_t count, int64_t each, const DeviceMemory& device, double margin) {
  if (device.is_host()) return {};
  const MemoryFigures memory = device.figures();
  const auto reserved = static_cast<int64_t>(margin * static_cast<double>(memory.total_bytes));
  const int64_t usable = std::max<int64_t>(0, memory.free_bytes - reserved);
  if (count * each <= usable) return {};
  return Status{Code::resource_exhausted,
                fmt::format("{} experts of {} take {}; {} has {} free of {}, of which {} stay free "
                            "(experts.memory_margin), which leaves room for {} of them: add workers",
                            count, format_bytes(each), format_bytes(count * each), device.name(),
                            format_bytes(memory.free_bytes), format_bytes(memory.total_bytes),
                            format_bytes(reserved), usable / each)};
}

Result<LoadedExperts> load_experts(const ExpertLoaderOptions& options, const ModelSpec& spec,
                                   const ExpertsOfLayer& experts_l, LoadProgress& progress) {
  if (options.offload != OffloadMode::none) {
    GH_ASSIGN(std::shared_ptr<ColdExperts> cold, open_cold_experts(options, spec, experts_l, progress));
    return LoadedExperts(std::move(cold));
  }
  GH_TRY(check_memory(spec, experts_l, options.memory_limit));
  GH_TRY(check_device_memory(spec, experts_l, *options.device, options.memory_margin));
  GH_ASSIGN(std::unique_ptr<ExpertStore> store,
            ExpertStore::load(options.model_path, spec, options.mode, experts_l, progress, *options.device));
  return LoadedExperts(std::shared_ptr<const ExpertStore>(std::move(store)));
}

ExpertLoader::ExpertLoader(ExpertLoaderOptions options, const ModelSpec& spec, ExpertsOfLayer experts,
                           Done done)
    : experts_(std::move(experts)) {
  thread_ = std::thread([this, &spec, options = std::move(options), done = std::move(done)] {
    done(load_experts(options, spec, experts_, progress_));
  });
}

ExpertLoader::~ExpertLoader() {
  progress_.cancel = true;
  thread_.join();
}

}  // namespace guildhall
