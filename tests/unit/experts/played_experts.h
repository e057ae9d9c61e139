// played_experts.h: cold experts that come when the test lets them, or cannot be read.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <semaphore>

#include "experts/expert_bringer.h"
#include "model/expert_reader.h"
#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {

inline const int64_t kBytes = expert_bytes(tiny_model());

// The tiny checkpoint's, one for each time that the test lets one pass. Expert `broken` of a layer cannot be
// read.
class PlayedExperts final : public ColdExperts {
 public:
  PlayedExperts(int64_t num_slots, DeviceMemory& memory)
      : ColdExperts(kBytes, num_slots),
        reader_(
            ExpertReader::open(tiny_checkpoint(), tiny_model(), LoadMode::checkpoint, memory, [](int64_t) {
              return Result<void>();
            }).value()) {}

  Result<ExpertPtr> bring(int64_t layer, int64_t expert) override {
    passes_.acquire();
    order.push_back({layer, expert});
    if (expert == broken) return Status{Code::data_loss, "the disk said no"};
    Result<ExpertPtr> brought = reader_->load(layer, expert);
    most_in_use = std::max(most_in_use.load(), in_use());
    return brought;
  }
  void let_pass(int n) { passes_.release(n); }

  std::function<int64_t()> in_use = [] { return int64_t{0}; };
  std::vector<ExpertKey> order;  // to be read when nothing is under way
  std::atomic<int64_t> broken{-1}, most_in_use{0};

 private:
  const std::unique_ptr<ExpertReader> reader_;
  std::counting_semaphore<> passes_{0};
};

}  // namespace guildhall
