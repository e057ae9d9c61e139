#include "tests/emulation/device_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace guildhall::emulation {
namespace {

constexpr size_t kGuardBytes = 256;  // before and behind each block; keeps blocks aligned as CUDA's are
constexpr unsigned char kGuard = 0xa5, kUnwritten = 0xff;

struct Region {
  unsigned char* base = nullptr;
  int open = 0;  // DeviceAccess objects alive
  size_t used = 0;
  std::map<size_t, size_t> free_at;   // offset -> bytes, never adjacent
  std::map<size_t, size_t> block_at;  // offset of a block's data -> bytes asked for
};

Region& region() {
  static Region* const made = [] {
    auto* r = new Region;  // never freed: streams may outlive static objects
    void* base = mmap(nullptr, kDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      std::perror("emulated CUDA: mmap");
      std::abort();
    }
    r->base = static_cast<unsigned char*>(base);
    r->free_at[0] = kDeviceBytes;
    return r;
  }();
  return *made;
}

size_t whole_size(size_t bytes) { return kGuardBytes + (bytes + 255) / 256 * 256 + kGuardBytes; }

void mark([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes, [[maybe_unused]] bool usable) {
#if defined(__SANITIZE_ADDRESS__)
  if (usable)
    __asan_unpoison_memory_region(data, bytes);
  else
    __asan_poison_memory_region(data, bytes);
#endif
}

void check_guards(size_t offset, size_t bytes) {
  const size_t whole = whole_size(bytes);
  const unsigned char* block = region().base + offset - kGuardBytes;
  mark(block, whole, true);
  for (size_t i = 0; i < whole; ++i) {
    if (i == kGuardBytes) i += bytes;
    if (block[i] == kGuard) continue;
    std::fprintf(stderr, "emulated CUDA: a write at byte %lld of a device block of %zu bytes\n",
                 static_cast<long long>(i) - static_cast<long long>(kGuardBytes), bytes);
    std::abort();
  }
}

void give_back(size_t offset, size_t bytes) {
  auto& free_at = region().free_at;
  auto next = free_at.lower_bound(offset);
  if (next != free_at.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = free_at.erase(next);
  }
  if (next != free_at.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  free_at[offset] = bytes;
}

}  // namespace

void* allocate_device(size_t bytes) {
  Region& r = region();
  const size_t whole = whole_size(bytes);
  for (auto& [offset, size] : r.free_at) {
    if (size < whole) continue;
    const size_t at = offset, left = size - whole;
    r.free_at.erase(at);
    if (left > 0) r.free_at[at + whole] = left;
    r.block_at[at + kGuardBytes] = bytes;
    r.used += whole;
    DeviceAccess access;
    unsigned char* block = r.base + at;
    mark(block, whole, true);
    std::memset(block, kGuard, whole);
    std::memset(block + kGuardBytes, kUnwritten, bytes);
    mark(block, kGuardBytes, false);
    mark(block + kGuardBytes + bytes, whole - kGuardBytes - bytes, false);
    return block + kGuardBytes;
  }
  return nullptr;
}

void free_device(void* data) {
  Region& r = region();
  const auto offset = static_cast<size_t>(static_cast<unsigned char*>(data) - r.base);
  const auto found = r.block_at.find(offset);
  if (found == r.block_at.end()) {
    std::fprintf(stderr, "emulated CUDA: %p is freed, but is no device block\n", data);
    std::abort();
  }
  const size_t bytes = found->second, whole = whole_size(bytes);
  {
    DeviceAccess access;
    check_guards(offset, bytes);
    mark(r.base + offset - kGuardBytes, whole, false);
  }
  r.block_at.erase(found);
  r.used -= whole;
  give_back(offset - kGuardBytes, whole);
}

size_t device_bytes_used() { return region().used; }

DeviceAccess::DeviceAccess() {
  if (region().open++ == 0) mprotect(region().base, kDeviceBytes, PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--region().open == 0) mprotect(region().base, kDeviceBytes, PROT_NONE);
}

}  // namespace guildhall::emulation
