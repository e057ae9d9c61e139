// expert_bringer.h: brings cold experts into the device's memory on a thread of its own, one after the other:
// those that a run waits for, then those that a prediction names. Owner: the serve thread, whose every call
// but wait() returns at once; room for what it asks for is its own business.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/status.h"
#include "experts/cold_experts.h"

namespace guildhall {

struct ExpertKey {
  int64_t layer = 0, expert = 0;
  bool operator==(const ExpertKey&) const = default;
};

class ExpertBringer {
 public:
  enum class Urgency { demanded, predicted };
  struct Brought {
    ExpertKey key;
    Result<ExpertPtr> weights;
  };

  explicit ExpertBringer(std::shared_ptr<ColdExperts> cold);
  ~ExpertBringer();  // waits for the one under way

  void ask(ExpertKey key, Urgency urgency);
  // One that was asked for as predicted is demanded now.
  void hurry(ExpertKey key);
  // Takes back the predicted one that was asked for last, unless all are brought or under way.
  std::optional<ExpertKey> withdraw();

  // What has come since the last call, in any state. Empty: nothing.
  std::vector<Brought> take();
  void wait();  // until take() has something. Precondition: something was asked for that was not taken

 private:
  void run();
  ExpertKey next();  // under mutex_, of one that is not empty

  const std::shared_ptr<ColdExperts> cold_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable asked_, came_;
  std::deque<ExpertKey> demanded_, predicted_;
  std::vector<Brought> brought_;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace guildhall
