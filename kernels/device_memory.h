// device_memory.h: where a device keeps what its kernels work on. On the CPU that is the host's own memory,
// so that what the others copy is there already. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace guildhall {

// Freed when it goes; it may outlive the DeviceMemory it came from. At least 64-byte aligned.
using MemoryBlock = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;

struct MemoryFigures {
  int64_t total_bytes = 0, free_bytes = 0;
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  virtual std::string name() const = 0;  // "cpu", "cuda:0 (its product name)"
  // Whether the device works on the host's memory: uploads and downloads have nothing to do.
  virtual bool is_host() const = 0;

  // Contents are undefined. resource_exhausted, naming the device and what it has, when there is not so much.
  virtual Result<MemoryBlock> allocate(int64_t bytes) = 0;
  // The same for what others than this device's streams read and write too: network cards, other processes.
  // Nothing waits for those: the caller gives it back when they are done.
  virtual Result<MemoryBlock> allocate_for_transfers(int64_t bytes) { return allocate(bytes); }
  // Host memory that the device reads and writes at full speed, while the host goes on.
  virtual Result<MemoryBlock> allocate_pinned(int64_t bytes) = 0;

  // Copies a large piece (weights) and returns when `host` may be reused. Not for a step's data: Ops has
  // that.
  virtual Result<void> upload(std::span<const std::byte> host, std::byte* device) = 0;

  virtual MemoryFigures figures() const = 0;
};

// The CPU's. Pages that were never written take no memory.
DeviceMemory& host_memory();

}  // namespace guildhall
