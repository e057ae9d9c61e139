// event_mailbox.h: where the engine thread leaves events for one HTTP call. The engine appends and goes on;
// the connection is woken once however many events wait.
#pragma once

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "router/engine_client.h"

namespace guildhall {

// Shared by the call and its sinks, which may outlive the call. Bounded by the call itself: each sequence
// brings at most max_tokens tokens and its prompt's scores, then nothing more.
class EventMailbox {
 public:
  struct Item {
    size_t sequence_idx;
    EngineEvent event;
  };

  // `wake` is called with the lock held, on the engine thread: it may only post.
  explicit EventMailbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void put(size_t sequence_idx, EngineEvent&& event) {
    std::lock_guard lock(mutex_);
    if (!wake_) return;
    items_.push_back({sequence_idx, std::move(event)});
    if (!std::exchange(woken_, true)) wake_();
  }

  std::vector<Item> drain() {
    std::lock_guard lock(mutex_);
    woken_ = false;
    return std::exchange(items_, {});
  }

  // Nobody reads any more: later events are dropped and `wake` is not called again.
  void close() {
    std::lock_guard lock(mutex_);
    wake_ = nullptr;
    items_.clear();
  }

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<Item> items_;
  bool woken_ = false;
};

}  // namespace guildhall
