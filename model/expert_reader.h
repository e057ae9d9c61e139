// expert_reader.h: experts from the checkpoint one by one, as slowly as its owner likes. One owner thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "base/status.h"
#include "model/expert_layout.h"
#include "model/weights.h"

namespace guildhall {

class TensorSource;

class ExpertReader {
 public:
  // Called before each piece of a tensor is read, of at most kMaxPieceBytes: may wait. Its error ends the
  // load.
  using Pace = std::function<Result<void>(int64_t bytes)>;
  static constexpr int64_t kMaxPieceBytes = 1 << 20;

  // `spec` and `device`, in whose memory the experts will be, are borrowed.
  static Result<std::unique_ptr<ExpertReader>> open(const std::filesystem::path& dir, const ModelSpec& spec,
                                                    LoadMode mode, DeviceMemory& device, Pace pace);
  ~ExpertReader();

  Result<ExpertPtr> load(int64_t layer, int64_t expert);
  // What it will take; only the checkpoint's headers are looked at.
  Result<int64_t> bytes_of(int64_t layer, int64_t expert);

 private:
  ExpertReader(const ModelSpec& spec, DeviceMemory& device, std::unique_ptr<TensorSource> source);

  const ModelSpec& spec_;
  DeviceMemory& device_;
  std::unique_ptr<TensorSource> source_;
};

}  // namespace guildhall
