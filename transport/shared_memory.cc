#include "transport/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

namespace guildhall {
namespace {

// The token follows the memory, in a page of its own.
constexpr size_t kPage = 4096;
constexpr size_t token_offset(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
constexpr size_t mapped_size(size_t bytes) { return token_offset(bytes) + kPage; }

std::array<uint64_t, 2> random_token() {
  std::random_device device;
  std::array<uint64_t, 2> token{};
  for (uint64_t& half : token) half = uint64_t{device()} << 32 | device();
  return token;
}

void* map_fd(int fd, size_t size) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return data == MAP_FAILED ? nullptr : data;
}

}  // namespace

Result<SharedMemory> SharedMemory::create(size_t bytes) {
  const auto failed = [&](std::string_view what, int error) {
    return Status{Code::resource_exhausted,
                  fmt::format("{} bytes of shared memory: {}: {}", bytes, what, std::strerror(error))};
  };
  SharedMemory memory;
  memory.handle_ = {.pid = getpid(), .fd = memfd_create("guildhall", MFD_CLOEXEC), .token = random_token()};
  if (memory.handle_.fd < 0) return failed("memfd_create", errno);
  memory.owns_fd_ = true;
  const size_t size = mapped_size(bytes);
  if (const int error = posix_fallocate(memory.handle_.fd, 0, static_cast<off_t>(size)); error != 0)
    return failed("no memory", error);
  memory.data_ = static_cast<std::byte*>(map_fd(memory.handle_.fd, size));
  if (!memory.data_) return failed("mmap", errno);
  memory.mapped_bytes_ = size;
  std::memcpy(memory.data_ + token_offset(bytes), memory.handle_.token.data(), sizeof memory.handle_.token);
  return memory;
}

Result<SharedMemory> SharedMemory::map(const SharedMemoryHandle& handle, size_t bytes) {
  const std::string path = fmt::format("/proc/{}/fd/{}", handle.pid, handle.fd);
  const auto failed = [&](std::string_view what) {
    return Status{Code::unavailable, fmt::format("{}: {}", path, what)};
  };
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return failed(std::strerror(errno));
  SharedMemory memory;
  const size_t size = mapped_size(bytes);
  struct stat info {};
  const bool large_enough =
      fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == static_cast<off_t>(size);
  if (large_enough) memory.data_ = static_cast<std::byte*>(map_fd(fd, size));
  close(fd);
  if (!memory.data_) return failed("not the memory that was offered");
  memory.mapped_bytes_ = size;
  memory.handle_ = handle;
  if (std::memcmp(memory.data_ + token_offset(bytes), handle.token.data(), sizeof handle.token) != 0)
    return failed("not the memory that was offered");
  return memory;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      mapped_bytes_(other.mapped_bytes_),
      handle_(other.handle_),
      owns_fd_(std::exchange(other.owns_fd_, false)) {}

SharedMemory::~SharedMemory() {
  if (data_) munmap(data_, mapped_bytes_);
  if (owns_fd_) close(handle_.fd);
}

}  // namespace guildhall
