// spill_io.h: reads and writes of a spill file behind the engine's back. Reads have a thread of their own, as
// somebody waits for them and a slow disk may be long at a write. Jobs are as many as the owner has buffers.
// Lifecycle: threads from the start; the destructor drops what has not begun and waits for what has. Owner:
// the engine thread, which submits and collects.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "router/spill_file.h"

namespace guildhall {

class SpillIo {
 public:
  enum class Kind { read, write };
  struct Job {
    Kind kind = Kind::read;
    PrefixKey key;
    int64_t slot = 0;
    int32_t buffer = 0;         // the owner's
    std::span<std::byte> page;  // in it; the thread's until the job is collected
  };
  struct Done {
    Job job;
    Result<void> result;
    int64_t ns = 0;
  };

  // Borrows the file. on_done: called on the threads after each job.
  SpillIo(SpillFile& file, std::function<void()> on_done);
  ~SpillIo();

  void submit(const Job& job);
  std::vector<Done> collect();

 private:
  struct Lane {
    std::mutex mutex;  // guards the next two
    std::deque<Job> jobs;
    bool ends = false;
    std::condition_variable changed;
    std::thread thread;
  };
  Lane& lane(Kind kind) { return kind == Kind::read ? reads_ : writes_; }
  void serve(Lane& lane);

  SpillFile& file_;
  const std::function<void()> on_done_;
  std::mutex mutex_;  // guards done_
  std::vector<Done> done_;
  Lane reads_, writes_;
};

}  // namespace guildhall
