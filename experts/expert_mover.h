// expert_mover.h: brings experts into a device's memory while others are served, one after the other, on a
// thread of its own and no faster than it may: from another worker, or from the checkpoint where there is no
// other or it fails. Owner: the io thread; `done` is called on the mover's thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "experts/expert_loader.h"
#include "experts/expert_table.h"
#include "experts/pacer.h"
#include "experts/weight_fetch.h"
#include "model/expert_reader.h"

namespace guildhall {

class ExpertMover {
 public:
  struct Task {
    ExpertsOfLayer experts_l;
    int64_t bytes_per_s = 0;              // 0: no bound
    std::shared_ptr<WeightFetch> source;  // none: the checkpoint
  };
  using Done = std::function<void(Result<std::vector<PlacedExpert>>)>;

  // Starts. `spec` is borrowed. Memory limits are the caller's to check.
  ExpertMover(ExpertLoaderOptions options, const ModelSpec& spec, Task task, Done done);
  ~ExpertMover();  // cancels and waits

  int64_t bytes_done() const { return bytes_done_; }  // of whole experts

 private:
  void run(const Done& done);
  Result<ExpertPtr> bring(int64_t layer, int64_t expert);
  Result<ExpertPtr> fetch(int64_t layer, int64_t expert);
  Result<ExpertPtr> read(int64_t layer, int64_t expert);
  Result<void> pace(int64_t bytes);
  bool is_cancelled();

  const ExpertLoaderOptions options_;
  const ModelSpec& spec_;
  const Task task_;
  bool source_failed_ = false;
  std::atomic<int64_t> bytes_done_{0};
  std::unique_ptr<ExpertReader> reader_;  // opened when it is needed
  Pacer pacer_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool cancelled_ = false;  // under mutex_
  std::thread thread_;
};

}  // namespace guildhall
