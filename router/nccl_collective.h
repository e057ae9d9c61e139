// nccl_collective.h: Collective for ranks on CUDA devices, over NCCL's sums: enqueued on each rank's stream,
// so that the host goes on. A failed group's communicators are aborted, which lets the devices' streams run
// on; the ranks join new ones after reset(). In the library guildhall_nccl_ranks, which not every build has.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/ops.h"
#include "router/collective.h"
#include "transport/nccl_all_reduce.h"

namespace guildhall {

class NcclGroup final : public CollectiveGroup {
 public:
  // Rank r computes with ops_r[r], borrowed: CUDA devices, each its own.
  static Result<std::unique_ptr<CollectiveGroup>> make(const std::vector<Ops*>& ops_r,
                                                       std::chrono::nanoseconds join_deadline);
  ~NcclGroup() override;

  Collective& rank(int rank) override;
  void fail(Status why) override;
  void reset() override;

 private:
  class Member;
  NcclGroup(const std::vector<Ops*>& ops_r, std::chrono::nanoseconds join_deadline);
  Result<void> state();

  const std::chrono::nanoseconds join_deadline_;
  std::vector<std::unique_ptr<Member>> members_;
  UniqueIdBytes id_{};  // of the communicator that the ranks join next
  std::mutex mutex_;    // guards why_ and failed_
  bool failed_ = false;
  Status why_;
};

}  // namespace guildhall
