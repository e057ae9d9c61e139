// http_counters.h: what the HTTP side counts for /metrics: answers by endpoint and status, and connections.
// Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace guildhall {

class HttpCounters {
 public:
  using Answers = std::map<std::pair<std::string, int>, int64_t>;  // by endpoint and status

  // `endpoint` is one of the server's own or "other", never what a client made up: the table stays small.
  void count_answer(std::string_view endpoint, int status) {
    std::lock_guard lock(mutex_);
    ++answers_[{std::string(endpoint), status}];
  }
  Answers answers() const {
    std::lock_guard lock(mutex_);
    return answers_;
  }

  std::atomic<int64_t> num_connections{0};  // open now

 private:
  mutable std::mutex mutex_;
  Answers answers_;
};

}  // namespace guildhall
