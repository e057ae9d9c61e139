// shared_memory_collective.h: Collective for ranks that are threads of one process and compute on its memory:
// a rank tells where its part lies, all meet, and each reads the others' parts where they are. One meeting
// per sum. Waits spin briefly, then sleep.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/ops.h"
#include "router/collective.h"

namespace guildhall {

class SharedMemoryGroup final : public CollectiveGroup {
 public:
  // Rank r computes with ops_r[r]. Borrowed. spin_ns as in TeamOptions.
  SharedMemoryGroup(const std::vector<Ops*>& ops_r, int64_t spin_ns);
  ~SharedMemoryGroup() override;

  Collective& rank(int rank) override;
  void fail(Status why) override;
  void reset() override;

 private:
  class Member;
  // What each rank brought to one meeting. The next uses the other list, as some ranks still read this one
  // then.
  using Parts = std::vector<View2<const float>>;
  const Parts* meet(int rank, View2<const float> part);
  Result<void> state();

  const int64_t spin_ns_;
  std::vector<std::unique_ptr<Member>> members_;
  Parts parts_i_[2];
  alignas(64) std::atomic<uint32_t> arrived_{0};  // at the meeting
  alignas(64) std::atomic<uint32_t> meeting_{0};  // counts them
  std::atomic<bool> failed_{false};
  std::mutex mutex_;  // guards why_
  Status why_;
};

}  // namespace guildhall
