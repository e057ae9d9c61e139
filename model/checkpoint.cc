#include "model/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/json_reader.h"

namespace guildhall {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 256 << 20;

// A shard's name is joined to the folder's path, so it must not lead out of it.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// The file to use when neither of the usual names exists.
Result<std::string> only_safetensors_file(const std::filesystem::path& dir) {
  std::vector<std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") found.push_back(it->path().filename().string());
  }
  if (error)
    return Status{Code::not_found, fmt::format("{}: cannot be listed: {}", dir.string(), error.message())};
  if (found.empty())
    return Status{Code::not_found,
                  fmt::format("{}: no weights: neither {} nor {} nor another *.safetensors file",
                              dir.string(), kSingleFile, kIndexFile)};
  std::sort(found.begin(), found.end());
  if (found.size() > 1)
    return Status{Code::not_found,
                  fmt::format("{}: several weight files ({}, {}, ...) but no {} to say what is where",
                              dir.string(), found[0], found[1], kIndexFile)};
  return found.front();
}

}  // namespace

Result<ShardMap> parse_checkpoint_index(std::string_view index_json, std::string_view file) {
  GH_ASSIGN(const boost::json::object root, parse_json_object(index_json, file));
  const JsonObject index(root, fmt::format("{}: ", file));
  GH_ASSIGN(const std::optional<JsonObject> weight_map, index.object("weight_map"));
  if (!weight_map) return index.error(Code::invalid_argument, "weight_map", "is missing");
  ShardMap shards;
  for (const auto& item : weight_map->raw()) {
    GH_ASSIGN(std::string shard, weight_map->text(item.key()));
    if (!is_plain_file_name(shard))
      return weight_map->error(
          Code::invalid_argument, item.key(),
          fmt::format("'{}' is not a plain file name; shards must lie beside the index", shard));
    shards.emplace(item.key(), std::move(shard));
  }
  return shards;
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error))
    return Status{Code::not_found, fmt::format("{}: no such folder", dir.string())};
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(dir));
  if (std::filesystem::exists(dir / kSingleFile, error)) {
    checkpoint->single_ = kSingleFile;
  } else if (std::filesystem::exists(dir / kIndexFile, error)) {
    const std::filesystem::path path = dir / kIndexFile;
    GH_ASSIGN(const std::string text, read_text_file(path, kMaxIndexBytes));
    GH_ASSIGN(checkpoint->shard_of_tensor_, parse_checkpoint_index(text, path.string()));
  } else {
    GH_ASSIGN(checkpoint->single_, only_safetensors_file(dir));
  }
  return checkpoint;
}

Result<const SafetensorsFile*> Checkpoint::shard(const std::string& file_name) {
  auto& slot = open_[file_name];
  if (slot == nullptr) {
    GH_ASSIGN(slot, SafetensorsFile::open(dir_ / file_name));
  }
  return slot.get();
}

Result<TensorRef> Checkpoint::find(std::string_view name, std::span<const int64_t> shape) {
  std::string file_name = single_;
  if (single_.empty()) {
    const auto it = shard_of_tensor_.find(name);
    if (it == shard_of_tensor_.end())
      return Status{Code::not_found,
                    fmt::format("{}: tensor {} is not listed", (dir_ / kIndexFile).string(), name)};
    file_name = it->second;
  }
  Result<const SafetensorsFile*> file = shard(file_name);
  if (file.has_error()) {
    Status status = std::move(file).error();
    return Status{status.code, fmt::format("{} (needed for tensor {})", status.message, name)};
  }
  const auto it = (*file)->tensors().find(name);
  if (it == (*file)->tensors().end())
    return Status{Code::not_found, fmt::format("{}: tensor {} is not in the file{}", (*file)->path(), name,
                                               single_.empty() ? ", although the index says so" : "")};
  const std::vector<int64_t>& found = it->second.shape;
  if (!std::equal(found.begin(), found.end(), shape.begin(), shape.end()))
    return Status{Code::invalid_argument,
                  fmt::format("{}: tensor {} has shape [{}], but config.json asks for [{}]", (*file)->path(),
                              name, fmt::join(found, ","), fmt::join(shape, ","))};
  return TensorRef{it->first, *file, &it->second};
}

}  // namespace guildhall
