#include "experts/cold_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/units.h"
#include "experts/expert_loader.h"
#include "model/expert_reader.h"

namespace guildhall {
namespace {

class DiskExperts final : public ColdExperts {
 public:
  DiskExperts(int64_t slot_bytes, int64_t num_slots, std::unique_ptr<ExpertReader> reader)
      : ColdExperts(slot_bytes, num_slots), reader_(std::move(reader)) {}

  Result<ExpertPtr> bring(int64_t layer, int64_t expert) override { return reader_->load(layer, expert); }

 private:
  const std::unique_ptr<ExpertReader> reader_;
};

// Host memory that a device reads at full speed, where it has some left; else any.
class StagingMemory final : public DeviceMemory {
 public:
  explicit StagingMemory(DeviceMemory& device) : device_(device) {}
  std::string name() const override { return host_memory().name(); }
  bool is_host() const override { return true; }
  Result<MemoryBlock> allocate(int64_t bytes) override {
    Result<MemoryBlock> pinned = device_.allocate_pinned(bytes);
    return pinned.has_error() ? host_memory().allocate(bytes) : std::move(pinned);
  }
  Result<MemoryBlock> allocate_pinned(int64_t bytes) override { return allocate(bytes); }
  Result<void> upload(std::span<const std::byte> host, std::byte* device) override {
    return host_memory().upload(host, device);
  }
  MemoryFigures figures() const override { return host_memory().figures(); }

 private:
  DeviceMemory& device_;
};

// Those that were not read at the start (they came by a move) are read when they are first asked for.
class HostExperts final : public ColdExperts {
 public:
  HostExperts(int64_t slot_bytes, int64_t num_slots, const ModelSpec& spec, DeviceMemory& device)
      : ColdExperts(slot_bytes, num_slots), spec_(spec), device_(device), staging_(device) {}

  Result<void> open(const ExpertLoaderOptions& options) {
    GH_ASSIGN(reader_, ExpertReader::open(options.model_path, spec_, options.mode, staging_,
                                          [](int64_t) { return Result<void>(); }));
    return {};
  }

  Result<ExpertPtr> keep(int64_t layer, int64_t expert) {
    ExpertPtr& kept = kept_[{layer, expert}];
    if (!kept) {
      GH_ASSIGN(kept, reader_->load(layer, expert));
    }
    return kept;
  }

  Result<ExpertPtr> bring(int64_t layer, int64_t expert) override {
    GH_ASSIGN(const ExpertPtr kept, keep(layer, expert));
    return copy_expert(spec_, *kept, device_);
  }

 private:
  const ModelSpec& spec_;
  DeviceMemory& device_;
  StagingMemory staging_;
  std::unique_ptr<ExpertReader> reader_;
  std::map<std::pair<int64_t, int64_t>, ExpertPtr> kept_;
};

Status too_small(int64_t each, int64_t limit) {
  return {
      Code::resource_exhausted,
      fmt::format("experts.offload: an expert takes {} and experts.workers.memory is {}, which holds {} of "
                  "them; it must hold {}, one that is computed and one that is brought in meanwhile: "
                  "{} or more",
                  format_bytes(each), format_bytes(limit), limit / each, kFewestSlots,
                  format_bytes(kFewestSlots * each))};
}

Result<int64_t> largest_expert(ExpertReader& reader, const ModelSpec& spec) {
  int64_t largest = 0;
  for (int64_t layer = 0; layer < spec.num_layers; ++layer)
    for (int64_t expert = 0; spec.is_moe_layer[static_cast<size_t>(layer)] && expert < spec.moe.num_experts;
         ++expert) {
      GH_ASSIGN(const int64_t bytes, reader.bytes_of(layer, expert));
      largest = std::max(largest, bytes);
    }
  return largest;
}

Result<void> keep_all(HostExperts& host, const ExpertsOfLayer& experts_l, int64_t each,
                      LoadProgress& progress) {
  progress.bytes_total = count_of(experts_l) * each;
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer]) {
      if (progress.cancel) return Status{Code::cancelled, "the load was cancelled"};
      GH_TRY(host.keep(static_cast<int64_t>(layer), expert));
      progress.bytes_done += each;
    }
  return {};
}

}  // namespace

Result<OffloadMode> parse_offload_mode(std::string_view name) {
  if (name.empty() || name == "none") return OffloadMode::none;
  if (name == "disk") return OffloadMode::disk;
  if (name == "host") return OffloadMode::host;
  return Status{Code::invalid_argument,
                fmt::format("experts.offload.mode: '{}' is not one; there are none, disk and host", name)};
}

Result<void> check_offload_memory(const ModelSpec& spec, int64_t limit) {
  const int64_t each = expert_bytes(spec);
  if (limit < kFewestSlots * each) return too_small(each, limit);
  return {};
}

Result<void> check_offload_device(OffloadMode mode, const DeviceMemory& device) {
  if (mode != OffloadMode::host || !device.is_host()) return {};
  return Status{
      Code::invalid_argument,
      "experts.offload.mode is host, and this worker is on the CPU, whose memory is the host's; disk "
      "is what works here"};
}

Result<std::unique_ptr<ColdExperts>> open_cold_experts(const ExpertLoaderOptions& options,
                                                       const ModelSpec& spec, const ExpertsOfLayer& experts_l,
                                                       LoadProgress& progress) {
  DeviceMemory& device = *options.device;
  GH_TRY(check_offload_device(options.offload, device));
  GH_ASSIGN(auto reader, ExpertReader::open(options.model_path, spec, options.mode, device,
                                            [](int64_t) { return Result<void>(); }));
  GH_ASSIGN(const int64_t each, largest_expert(*reader, spec));
  if (options.memory_limit < kFewestSlots * each) return too_small(each, options.memory_limit);
  const int64_t num_slots = options.memory_limit / each;
  GH_TRY(check_device_room(std::min(num_slots, count_of(experts_l)), each, device, options.memory_margin));
  if (options.offload == OffloadMode::disk)
    return std::unique_ptr<ColdExperts>(std::make_unique<DiskExperts>(each, num_slots, std::move(reader)));
  auto host = std::make_unique<HostExperts>(each, num_slots, spec, device);
  GH_TRY(host->open(options));
  GH_TRY(keep_all(*host, experts_l, each, progress));
  return std::unique_ptr<ColdExperts>(std::move(host));
}

}  // namespace guildhall
