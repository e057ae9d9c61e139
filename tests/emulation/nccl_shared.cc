// nccl_shared.cc: see the header.
#include "tests/emulation/nccl_shared.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace guildhall::emulation {

static_assert(std::atomic<uint64_t>::is_always_lock_free, "works between processes");

std::shared_ptr<SharedComm> map_shared_comm(const std::string& name) {
  const int fd = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (fd < 0) return nullptr;
  void* data = MAP_FAILED;
  if (ftruncate(fd, sizeof(SharedComm)) == 0)
    data = mmap(nullptr, sizeof(SharedComm), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) return nullptr;
  return {static_cast<SharedComm*>(data), [](SharedComm* shared) { munmap(shared, sizeof *shared); }};
}

void unlink_shared_comm(const std::string& name) { shm_unlink(name.c_str()); }

}  // namespace guildhall::emulation
