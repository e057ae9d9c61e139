#include "experts/expert_bringer.h"

#include <algorithm>
#include <utility>

#include "base/trace.h"

namespace guildhall {

ExpertBringer::ExpertBringer(std::shared_ptr<ColdExperts> cold) : cold_(std::move(cold)) {
  thread_ = std::thread([this] { run(); });
}

ExpertBringer::~ExpertBringer() {
  {
    std::lock_guard lock(mutex_);
    is_over_ = true;
    asked_.notify_one();
  }
  thread_.join();
}

void ExpertBringer::ask(ExpertKey key, Urgency urgency) {
  std::lock_guard lock(mutex_);
  (urgency == Urgency::demanded ? demanded_ : predicted_).push_back(key);
  asked_.notify_one();
}

void ExpertBringer::hurry(ExpertKey key) {
  std::lock_guard lock(mutex_);
  if (std::erase(predicted_, key) > 0) demanded_.push_back(key);
}

std::optional<ExpertKey> ExpertBringer::withdraw() {
  std::lock_guard lock(mutex_);
  if (predicted_.empty()) return std::nullopt;
  const ExpertKey key = predicted_.back();
  predicted_.pop_back();
  return key;
}

std::vector<ExpertBringer::Brought> ExpertBringer::take() {
  std::lock_guard lock(mutex_);
  return std::exchange(brought_, {});
}

void ExpertBringer::wait() {
  std::unique_lock lock(mutex_);
  came_.wait(lock, [&] { return !brought_.empty(); });
}

void ExpertBringer::run() {
  name_trace_thread("bring experts");
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return is_over_ || !demanded_.empty() || !predicted_.empty(); });
    if (is_over_) return;
    const ExpertKey key = next();
    lock.unlock();
    Result<ExpertPtr> weights = [&] {
      TraceSpan span("bring expert", {.layer = key.layer});
      return cold_->bring(key.layer, key.expert);
    }();
    lock.lock();
    brought_.push_back({key, std::move(weights)});
    came_.notify_one();
  }
}

ExpertKey ExpertBringer::next() {
  std::deque<ExpertKey>& queue = demanded_.empty() ? predicted_ : demanded_;
  const ExpertKey key = queue.front();
  queue.pop_front();
  return key;
}

}  // namespace guildhall
