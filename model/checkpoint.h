// checkpoint.h: a folder of weight files as one map from tensor name to bytes. Only the shards that hold a
// tensor someone asked for are opened.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/safetensors.h"

namespace guildhall {

// Where a tensor's bytes are; borrowed from the Checkpoint that found it.
struct TensorRef {
  std::string_view name;
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;
};

using ShardMap = std::map<std::string, std::string, std::less<>>;  // tensor name -> shard's file name

// model.safetensors.index.json: its weight_map. Shards must be plain file names (no folders, no "..").
Result<ShardMap> parse_checkpoint_index(std::string_view index_json, std::string_view file);

// One owner thread.
class Checkpoint {
 public:
  // DIR/model.safetensors; else the shards that DIR/model.safetensors.index.json names; else DIR's only
  // *.safetensors file.
  static Result<std::unique_ptr<Checkpoint>> open(const std::filesystem::path& dir);

  // not_found, naming the tensor and where it was looked for; invalid_argument when its shape is another.
  Result<TensorRef> find(std::string_view name, std::span<const int64_t> shape);

 private:
  explicit Checkpoint(std::filesystem::path dir) : dir_(std::move(dir)) {}
  Result<const SafetensorsFile*> shard(const std::string& file_name);

  std::filesystem::path dir_;
  std::string single_;  // the one file; empty: sharded
  ShardMap shard_of_tensor_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>, std::less<>> open_;
};

}  // namespace guildhall
