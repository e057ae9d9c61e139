#include "model/arena.h"

#include <fmt/format.h>

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

// The kernel hands out more than it has and kills later; a refusal now can be read. Of other devices the
// allocation says it.
Result<void> Arena::check_available(int64_t bytes, const DeviceMemory& device) {
  const std::optional<int64_t> available = device.is_host() ? available_memory_bytes() : std::nullopt;
  if (!available || bytes <= *available) return {};
  return out_of_memory(bytes,
                       fmt::format("this machine has {} available; hold fewer experts here or add memory",
                                   format_bytes(*available)));
}

Result<Arena> Arena::allocate(int64_t bytes, DeviceMemory& device) {
  Arena arena;
  if (bytes == 0) return arena;
  GH_TRY(check_available(bytes, device));
  Result<MemoryBlock> data = device.allocate(bytes);
  if (data.has_error()) return out_of_memory(bytes, data.error().message);
  arena.data_ = *std::move(data);
  arena.bytes_ = bytes;
  return arena;
}

}  // namespace guildhall
