// ucx_waiter.h: sleeping until a UCP worker has something to do, another thread wakes us, or time is up.
//
// One owner thread; wake() from any. UCX's rule: a worker may be slept on only after ucp_worker_arm() agreed,
// and it refuses (UCS_ERR_BUSY) while there is progress to make.
#pragma once

#include <ucp/api/ucp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/status.h"
#include "transport/wait_options.h"

namespace guildhall {

class UcxWaiter {
 public:
  static Result<UcxWaiter> open(ucp_worker_h worker, const WaitOptions& options);
  UcxWaiter(UcxWaiter&& other) noexcept;
  UcxWaiter& operator=(UcxWaiter&&) = delete;
  ~UcxWaiter();

  void wake();

  // Progresses the worker until ready() is true, it is woken, or `timeout` is over. Never sleeps longer than
  // `longest_sleep` at a time.
  template <class Ready>
  void wait(std::chrono::nanoseconds timeout, std::chrono::nanoseconds longest_sleep, Ready ready);

 private:
  using Time = std::chrono::steady_clock::time_point;
  UcxWaiter(ucp_worker_h worker, const WaitOptions& options, int worker_fd, int wake_fd);

  bool take_wake();  // true once per wake()
  void drain_wake_fd();
  bool arm();                                 // false: progress first
  bool sleep(std::chrono::nanoseconds time);  // on both descriptors; true: woken

  ucp_worker_h worker_;
  WaitOptions options_;
  int worker_fd_;  // UCX's
  int wake_fd_;    // ours
  std::atomic<bool> woken_{false};
  bool arm_failed_ = false;
};

template <class Ready>
void UcxWaiter::wait(std::chrono::nanoseconds timeout, std::chrono::nanoseconds longest_sleep, Ready ready) {
  using Clock = std::chrono::steady_clock;
  const Time start = Clock::now();
  const Time deadline = start + std::min<std::chrono::nanoseconds>(timeout, kLongestWait);
  const Time spin_until =
      options_.mode == WaitMode::spin ? deadline : std::min(deadline, start + options_.spin);
  for (;;) {
    while (ucp_worker_progress(worker_) != 0) {
      if (ready()) break;
    }
    if (take_wake() || ready()) return;
    const Time now = Clock::now();
    if (now >= deadline) return;
    if (now < spin_until) {
      // Whoever we wait for may need this very core: measured on a full machine, spinning without this costs
      // each frame the whole spin (27 us over tcp, 5 with it; shared memory 26 and 1).
      if (options_.mode == WaitMode::adaptive) std::this_thread::yield();
      continue;
    }
    if (!arm()) continue;
    if (sleep(std::min<std::chrono::nanoseconds>(deadline - now, longest_sleep))) return;
  }
}

}  // namespace guildhall
