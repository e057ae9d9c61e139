// ucx_waiter.cc: arm, poll two descriptors, and a wake-up that costs a system call only when it is news.
#include "transport/ucx_waiter.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace guildhall {

Result<UcxWaiter> UcxWaiter::open(ucp_worker_h worker, const WaitOptions& options) {
  int worker_fd = -1;
  if (ucs_status_t status = ucp_worker_get_efd(worker, &worker_fd); status != UCS_OK)
    return Status{Code::unsupported, fmt::format("transport.ucx: these transports cannot be slept on: {}",
                                                 ucs_status_string(status))};
  const int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd < 0)
    return Status{Code::resource_exhausted,
                  fmt::format("eventfd: {}; raise `ulimit -n`", std::strerror(errno))};
  return UcxWaiter(worker, options, worker_fd, wake_fd);
}

UcxWaiter::UcxWaiter(ucp_worker_h worker, const WaitOptions& options, int worker_fd, int wake_fd)
    : worker_(worker), options_(options), worker_fd_(worker_fd), wake_fd_(wake_fd) {}

UcxWaiter::UcxWaiter(UcxWaiter&& other) noexcept
    : UcxWaiter(other.worker_, other.options_, other.worker_fd_, std::exchange(other.wake_fd_, -1)) {}

UcxWaiter::~UcxWaiter() {
  if (wake_fd_ >= 0) close(wake_fd_);
}

void UcxWaiter::wake() {
  if (woken_.exchange(true)) return;
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the descriptor is readable anyway.
  [[maybe_unused]] ssize_t written = write(wake_fd_, &one, sizeof one);
}

bool UcxWaiter::take_wake() {
  if (!woken_.load(std::memory_order_relaxed)) return false;
  drain_wake_fd();
  // A wake() since then is taken along. Its write may come later still: then one sleep ends early.
  woken_.exchange(false);
  return true;
}

void UcxWaiter::drain_wake_fd() {
  uint64_t count;
  [[maybe_unused]] ssize_t got = read(wake_fd_, &count, sizeof count);
}

bool UcxWaiter::arm() {
  const ucs_status_t status = ucp_worker_arm(worker_);
  if (status != UCS_OK && status != UCS_ERR_BUSY && !std::exchange(arm_failed_, true))
    log_warn("ucx_arm_failed", "reason={} effect=\"sleeps are cut to 1 ms\"", ucs_status_string(status));
  return status != UCS_ERR_BUSY;
}

bool UcxWaiter::sleep(std::chrono::nanoseconds time) {
  if (arm_failed_) time = std::min<std::chrono::nanoseconds>(time, std::chrono::milliseconds(1));
  pollfd fds[2] = {{worker_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  const timespec limit{time.count() / 1'000'000'000, time.count() % 1'000'000'000};
  const int rc = ppoll(fds, 2, &limit, nullptr);
  GH_CHECK(rc >= 0 || errno == EINTR);
  if (rc <= 0 || fds[1].revents == 0) return false;
  drain_wake_fd();
  woken_.exchange(false);
  return true;
}

}  // namespace guildhall
