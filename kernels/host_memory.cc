// host_memory.cc: the host's memory as a device's: small blocks from the heap, large ones in huge pages.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/units.h"
#include "kernels/device_memory.h"

namespace guildhall {
namespace {

constexpr int64_t kLargeBytes = 2 << 20;  // a huge page of x86-64
constexpr size_t kAlignment = 64;         // a cache line, and an AVX-512 register

Status refused(int64_t bytes) {
  return {Code::resource_exhausted, fmt::format("the system refused {} of memory", format_bytes(bytes))};
}

class HostMemory final : public DeviceMemory {
 public:
  std::string name() const override { return "cpu"; }
  bool is_host() const override { return true; }

  Result<MemoryBlock> allocate(int64_t bytes) override {
    const size_t size = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes < kLargeBytes) {
      auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
      if (data == nullptr && size > 0) return refused(bytes);
      return MemoryBlock(data, [](std::byte* p) { std::free(p); });
    }
    void* data =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return refused(bytes);
    madvise(data, size, MADV_HUGEPAGE);  // advice only
    return MemoryBlock(static_cast<std::byte*>(data), [size](std::byte* p) { munmap(p, size); });
  }
  Result<MemoryBlock> allocate_pinned(int64_t bytes) override { return allocate(bytes); }

  Result<void> upload(std::span<const std::byte> host, std::byte* device) override {
    if (host.data() != device) std::memcpy(device, host.data(), host.size());
    return {};
  }

  MemoryFigures figures() const override {
    const int64_t page = sysconf(_SC_PAGESIZE);
    return {.total_bytes = sysconf(_SC_PHYS_PAGES) * page, .free_bytes = sysconf(_SC_AVPHYS_PAGES) * page};
  }
};

}  // namespace

DeviceMemory& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace guildhall
