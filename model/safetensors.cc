#include "model/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "model/json_reader.h"

namespace guildhall {
namespace {

struct DtypeBits {
  std::string_view name;
  int64_t bits;
};

// Every dtype of the format: a tensor we do not need may have any of them.
constexpr std::array<DtypeBits, 20> kDtypes{
    {{"F64", 64},    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64}, {"I32", 32}, {"I16", 16},
     {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},   {"BOOL", 8}, {"F8_E4M3", 8},
     {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},   {"C64", 64}}};

Status bad_tensor(std::string_view file, std::string_view tensor, std::string_view problem) {
  return {Code::data_loss, fmt::format("{}: tensor {}: {}", file, tensor, problem)};
}

std::optional<int64_t> dtype_bits(std::string_view name) {
  for (const DtypeBits& dtype : kDtypes) {
    if (dtype.name == name) return dtype.bits;
  }
  return std::nullopt;
}

// Bytes that a shape takes; nullopt on overflow or when sub-byte elements do not fill whole bytes.
std::optional<int64_t> shape_bytes(const std::vector<int64_t>& shape, int64_t bits) {
  int64_t total = bits;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(total, dim, &total)) return std::nullopt;
  }
  if (total % 8 != 0) return std::nullopt;
  return total / 8;
}

// A list of non-negative integers, at most `max_size` of them.
std::optional<std::vector<int64_t>> read_list(const boost::json::object& entry, std::string_view key,
                                              size_t max_size) {
  const boost::json::value* value = entry.if_contains(key);
  if (value == nullptr || !value->is_array() || value->get_array().size() > max_size) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const boost::json::value& item : value->get_array()) {
    const int64_t* number = item.if_int64();
    if (number == nullptr || *number < 0) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

Result<TensorInfo> read_tensor(std::string_view name, const boost::json::value& value, int64_t data_start,
                               int64_t file_bytes, std::string_view file) {
  if (!value.is_object()) return bad_tensor(file, name, "its header entry is not an object");
  const boost::json::object& entry = value.get_object();
  TensorInfo info;
  const boost::json::value* dtype = entry.if_contains("dtype");
  if (dtype == nullptr || !dtype->is_string())
    return bad_tensor(file, name, "dtype is missing or not a string");
  info.dtype = std::string_view(dtype->get_string());
  const std::optional<int64_t> bits = dtype_bits(info.dtype);
  if (!bits) return bad_tensor(file, name, fmt::format("dtype '{}' is unknown", info.dtype));

  std::optional<std::vector<int64_t>> shape = read_list(entry, "shape", kMaxTensorRank);
  if (!shape)
    return bad_tensor(file, name, fmt::format("shape is not a list of at most {} sizes", kMaxTensorRank));
  info.shape = *std::move(shape);
  const std::optional<std::vector<int64_t>> offsets = read_list(entry, "data_offsets", 2);
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1])
    return bad_tensor(file, name, "data_offsets is not a pair [begin, end] with begin <= end");
  const int64_t begin = (*offsets)[0], end = (*offsets)[1];
  const int64_t data_bytes = file_bytes - data_start;
  if (end > data_bytes)
    return bad_tensor(file, name,
                      fmt::format("its data ends at byte {} of {} that the file holds after its header; "
                                  "the file is truncated or its header is wrong",
                                  end, data_bytes));
  const std::optional<int64_t> expected = shape_bytes(info.shape, *bits);
  if (!expected || *expected != end - begin)
    return bad_tensor(
        file, name,
        fmt::format("data_offsets hold {} bytes, which is not what its dtype and shape say", end - begin));
  info.begin = data_start + begin;
  info.end = data_start + end;
  return info;
}

Result<void> check_overlap(const TensorMap& tensors, std::string_view file) {
  std::vector<const TensorMap::value_type*> order;
  for (const auto& item : tensors) {
    if (item.second.bytes() > 0) order.push_back(&item);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->second.begin < b->second.begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->second.begin < order[i - 1]->second.end)
      return bad_tensor(file, order[i]->first,
                        fmt::format("its data overlaps that of tensor {}", order[i - 1]->first));
  }
  return {};
}

// Bytes read: short only at the end of the file; -1 and errno on failure.
ssize_t read_fully(int fd, std::byte* out, size_t size, int64_t offset) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(fd, out + done, size - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

}  // namespace

Result<int64_t> safetensors_header_bytes(std::span<const std::byte, 8> prefix, int64_t file_bytes,
                                         std::string_view file) {
  if (std::memcmp(prefix.data(), "version ", 8) == 0)
    return Status{Code::data_loss,
                  fmt::format("{}: is a Git LFS pointer, not the weights; run `git lfs pull` there", file)};
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(prefix[i]) << (8 * i);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes))
    return Status{Code::data_loss,
                  fmt::format("{}: header length {} exceeds {}; not a safetensors file, or corrupt", file,
                              length, kMaxSafetensorsHeaderBytes)};
  if (static_cast<int64_t>(length) > file_bytes - 8)
    return Status{Code::data_loss,
                  fmt::format("{}: header length {} exceeds the file's {} bytes; the file is "
                              "truncated or corrupt",
                              file, length, file_bytes)};
  return static_cast<int64_t>(length);
}

Result<TensorMap> parse_safetensors_header(std::string_view header, int64_t file_bytes,
                                           std::string_view file) {
  GH_ASSIGN(const boost::json::object root, parse_json_object(header, fmt::format("{}: header", file)));
  const int64_t data_start = 8 + static_cast<int64_t>(header.size());
  TensorMap tensors;
  for (const auto& item : root) {
    if (item.key() == "__metadata__") continue;
    GH_ASSIGN(TensorInfo info, read_tensor(item.key(), item.value(), data_start, file_bytes, file));
    tensors.emplace(item.key(), std::move(info));
  }
  GH_TRY(check_overlap(tensors, file));
  return tensors;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return Status{errno == ENOENT ? Code::not_found : Code::invalid_argument,
                  fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno))};
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path.string(), fd));
  GH_TRY(file->read_header());
  return file;
}

SafetensorsFile::~SafetensorsFile() { ::close(fd_); }

Result<void> SafetensorsFile::read_header() {
  struct stat status {};
  if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode))
    return Status{Code::invalid_argument, fmt::format("{}: not a regular file", path_)};
  const int64_t file_bytes = status.st_size;
  std::array<std::byte, 8> prefix{};
  if (read_fully(fd_, prefix.data(), prefix.size(), 0) != 8)
    return Status{
        Code::data_loss,
        fmt::format("{}: {} bytes is too short for a safetensors file; it is truncated", path_, file_bytes)};
  GH_ASSIGN(const int64_t header_bytes, safetensors_header_bytes(prefix, file_bytes, path_));
  std::string header(static_cast<size_t>(header_bytes), '\0');
  if (read_fully(fd_, reinterpret_cast<std::byte*>(header.data()), header.size(), 8) != header_bytes)
    return Status{Code::data_loss, fmt::format("{}: the header cannot be read whole", path_)};
  GH_ASSIGN(tensors_, parse_safetensors_header(header, file_bytes, path_));
  return {};
}

Result<void> SafetensorsFile::read(std::string_view tensor, const TensorInfo& info, int64_t offset,
                                   std::span<std::byte> out) const {
  const ssize_t n = read_fully(fd_, out.data(), out.size(), info.begin + offset);
  if (n < 0)
    return Status{Code::data_loss,
                  fmt::format("{}: tensor {}: reading failed: {}", path_, tensor, std::strerror(errno))};
  if (static_cast<size_t>(n) != out.size())
    return Status{Code::data_loss,
                  fmt::format("{}: tensor {}: the file ended while it was read", path_, tensor)};
  return {};
}

}  // namespace guildhall
