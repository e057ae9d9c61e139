// device_memory.h: the emulated device's memory: one region that is closed to the host, except while
// operations run. Blocks have guard bytes around them and begin as NaNs. Callers hold the emulation's lock.
#pragma once

#include <cstddef>

namespace guildhall::emulation {

inline constexpr size_t kDeviceBytes = size_t{1} << 30;

void* allocate_device(size_t bytes);  // nullptr: none left
// Aborts when `data` is no block, or when something was written beside it.
void free_device(void* data);
size_t device_bytes_used();

// Opens the device's memory to this process while it lives.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace guildhall::emulation
