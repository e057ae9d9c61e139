// shutdown.h: the one place a process waits for its end: a signal, or a part that cannot go on. Any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "base/status.h"

namespace guildhall {

class Shutdown {
 public:
  // The first request counts. Without a status the end is orderly.
  void request(std::optional<Status> why = std::nullopt) {
    std::lock_guard lock(mutex_);
    if (requested_) return;
    requested_ = true;
    why_ = std::move(why);
    changed_.notify_all();
  }
  bool requested() const {
    std::lock_guard lock(mutex_);
    return requested_;
  }
  // Waits for a request; its status, if the end is not orderly.
  std::optional<Status> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return requested_; });
    return why_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool requested_ = false;
  std::optional<Status> why_;
};

}  // namespace guildhall
