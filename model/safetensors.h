// safetensors.h: one weight file. 8 bytes little-endian header length, a JSON header (name -> dtype, shape,
// byte range), then the tensors' bytes. The header is parsed and checked whole before any tensor is believed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit
inline constexpr size_t kMaxTensorRank = 8;

struct TensorInfo {
  std::string dtype;           // as written: "BF16", "F32", ...
  std::vector<int64_t> shape;  // at most kMaxTensorRank
  int64_t begin = 0, end = 0;  // bytes from the start of the file
  int64_t bytes() const { return end - begin; }
};

using TensorMap = std::map<std::string, TensorInfo, std::less<>>;

// The header's length, from a file's first 8 bytes. `file` names the file in errors, here and below.
Result<int64_t> safetensors_header_bytes(std::span<const std::byte, 8> prefix, int64_t file_bytes,
                                         std::string_view file);

// The header's JSON text to tensors. Each has a known dtype, a byte range inside the file whose length is
// what dtype and shape say, and shares no byte with another.
Result<TensorMap> parse_safetensors_header(std::string_view header, int64_t file_bytes,
                                           std::string_view file);

// An open file and its tensors. Any thread may read.
class SafetensorsFile {
 public:
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const TensorMap& tensors() const { return tensors_; }
  const std::string& path() const { return path_; }

  // Fills `out` from byte `offset` of the tensor. Reads with pread, so that a file that shrinks meanwhile is
  // an error and not a SIGBUS.
  Result<void> read(std::string_view tensor, const TensorInfo& info, int64_t offset,
                    std::span<std::byte> out) const;

 private:
  SafetensorsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Result<void> read_header();

  std::string path_;
  int fd_;
  TensorMap tensors_;
};

}  // namespace guildhall
