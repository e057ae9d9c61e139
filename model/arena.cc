#include "model/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "base/units.h"

namespace guildhall {
namespace {

// What the kernel thinks can be had without swapping; nullopt where it does not say.
std::optional<int64_t> available_memory_bytes() {
  std::ifstream in("/proc/meminfo");
  for (std::string key; in >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && in >> kib) return kib * 1024;
    in.ignore(256, '\n');
  }
  return std::nullopt;
}

Status out_of_memory(int64_t bytes, std::string_view reason) {
  return {Code::resource_exhausted,
          fmt::format("weights need {} of memory: {}", format_bytes(bytes), reason)};
}

}  // namespace

Result<Arena> Arena::allocate(int64_t bytes) {
  Arena arena;
  if (bytes == 0) return arena;
  // The kernel hands out more than it has and kills later; a refusal now can be read.
  if (const std::optional<int64_t> available = available_memory_bytes(); available && bytes > *available)
    return out_of_memory(bytes,
                         fmt::format("this machine has {} available; hold fewer experts here or add memory",
                                     format_bytes(*available)));
  void* data =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return out_of_memory(bytes, std::strerror(errno));
  // Advice only: without huge pages everything works, with more TLB misses.
  ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  arena.data_ = static_cast<std::byte*>(data);
  arena.bytes_ = bytes;
  return arena;
}

Arena::~Arena() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace guildhall
