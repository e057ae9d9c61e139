#include "router/spill_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/units.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

constexpr int64_t kAlignment = 4096;  // of slots: no page of the disk belongs to two

// Then the page. Written and read by one process, so in its own byte order.
struct SlotHeader {
  std::array<uint8_t, 16> key;  //  0  as asked for, else data_loss
  uint32_t page_bytes;          // 16  as all slots', else data_loss
  uint32_t crc32c;              // 20  of key and page, else data_loss
};
static_assert(sizeof(SlotHeader) == 24);

int64_t slot_bytes(int64_t page_bytes) {
  const auto bytes = static_cast<int64_t>(sizeof(SlotHeader)) + page_bytes;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

uint32_t checksum(const PrefixKey& key, std::span<const std::byte> page) {
  return crc32c(page, crc32c(std::as_bytes(std::span(key.bytes))));
}

// For its owner only, and in no folder any more.
Result<int> open_unnamed(const std::filesystem::path& folder) {
  std::string name = (folder / "guildhall-kv-XXXXXX").string();
  const int fd = mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0)
    return Status{Code::invalid_argument,
                  fmt::format("no file can be made in {}: {}; name a folder that this "
                              "process may write to",
                              folder.string(), std::strerror(errno))};
  unlink(name.c_str());
  return fd;
}

Result<void> reserve(int fd, int64_t bytes) {
  // Beyond the limit the system would not only refuse but end the process (SIGXFSZ).
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && static_cast<rlim_t>(bytes) > limit.rlim_cur)
    return Status{Code::resource_exhausted,
                  fmt::format("files of this process may have {} at most (ulimit -f)",
                              format_bytes(static_cast<int64_t>(limit.rlim_cur)))};
  if (fallocate(fd, 0, 0, bytes) == 0) return {};
  const bool cannot_promise = errno == EOPNOTSUPP || errno == ENOSYS;
  if (cannot_promise && ftruncate(fd, bytes) == 0) return {};
  return Status{Code::resource_exhausted,
                fmt::format("{} cannot be reserved: {}", format_bytes(bytes), std::strerror(errno))};
}

// Goes on where the system has moved less than was asked for; its error, or 0. A file's end is EIO.
template <class Move>
int move_all(Move&& move, std::array<iovec, 2> parts, off_t at) {
  while (parts[0].iov_len + parts[1].iov_len > 0) {
    const ssize_t moved = move(parts.data(), static_cast<int>(parts.size()), at);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return errno;
    if (moved == 0) return EIO;
    at += moved;
    auto left = static_cast<size_t>(moved);
    for (iovec& part : parts) {
      const size_t n = std::min(left, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + n;
      part.iov_len -= n, left -= n;
    }
  }
  return 0;
}

}  // namespace

Result<void> SpillFile::check_folder(const std::filesystem::path& folder) {
  GH_ASSIGN(const int fd, open_unnamed(folder));
  close(fd);
  return {};
}

int64_t SpillFile::num_slots(const SpillFileOptions& options) {
  return options.size_bytes / slot_bytes(options.page_bytes);
}

Result<std::unique_ptr<SpillFile>> SpillFile::create(const SpillFileOptions& options) {
  const int64_t num = num_slots(options);
  if (num == 0)
    return Status{
        Code::resource_exhausted,
        fmt::format("{} hold no page of {}; what would do: {}", format_bytes(options.size_bytes),
                    format_bytes(options.page_bytes), format_bytes(slot_bytes(options.page_bytes)))};
  GH_ASSIGN(const int fd, open_unnamed(options.folder));
  std::unique_ptr<SpillFile> file(new SpillFile(fd, options.page_bytes, num));
  if (Result<void> reserved = reserve(fd, num * slot_bytes(options.page_bytes)); reserved.has_error())
    return Status{reserved.error().code, options.folder.string() + ": " + reserved.error().message};
  return file;
}

SpillFile::~SpillFile() { close(fd_); }

Result<void> SpillFile::write(int64_t slot, const PrefixKey& key, std::span<const std::byte> page) {
  GH_CHECK(slot < num_slots_ && static_cast<int64_t>(page.size()) == page_bytes_);
  if (is_cleared_) return Status{Code::unavailable, "the file was given up"};
  SlotHeader header{key.bytes, static_cast<uint32_t>(page_bytes_), checksum(key, page)};
  const auto write_some = [this](const iovec* parts, int num, off_t at) {
    return pwritev(fd_, parts, num, at);
  };
  const int error = move_all(
      write_some, {iovec{&header, sizeof header}, iovec{const_cast<std::byte*>(page.data()), page.size()}},
      slot * slot_bytes(page_bytes_));
  if (error == 0) return {};
  return Status{Code::resource_exhausted, fmt::format("writing failed: {}", std::strerror(error))};
}

Result<void> SpillFile::read(int64_t slot, const PrefixKey& key, std::span<std::byte> page) {
  GH_CHECK(slot < num_slots_ && static_cast<int64_t>(page.size()) == page_bytes_);
  if (is_cleared_) return Status{Code::data_loss, "the file was given up"};
  SlotHeader header{};
  const auto read_some = [this](const iovec* parts, int num, off_t at) {
    return preadv(fd_, parts, num, at);
  };
  const int error = move_all(read_some, {iovec{&header, sizeof header}, iovec{page.data(), page.size()}},
                             slot * slot_bytes(page_bytes_));
  if (error != 0)
    return Status{Code::data_loss, fmt::format("slot {}: reading failed: {}", slot, std::strerror(error))};
  if (header.key != key.bytes || header.page_bytes != page_bytes_)
    return Status{Code::data_loss, fmt::format("slot {}: holds another page", slot)};
  if (header.crc32c != checksum(key, page))
    return Status{Code::data_loss, fmt::format("slot {}: its checksum is wrong", slot)};
  return {};
}

void SpillFile::clear() {
  is_cleared_ = true;
  if (ftruncate(fd_, 0) != 0) return;  // the room comes back when the process ends
}

}  // namespace guildhall
