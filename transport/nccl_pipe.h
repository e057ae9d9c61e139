// nccl_pipe.h: frames over one communicator in one direction, in order, each staged through device memory.
// Copies have streams of their own, so that one frame's copy overlaps another's way over the wire.
//
//   send:     pinned -> device (copy stream), then ncclSend (communication stream)
//   receive:  ncclRecv (communication stream), then device -> pinned (copy stream)
//
// Groups whose shape recurs go by a recorded graph (nccl_graphs.h).
//
// Never waits but in its end, which aborts the communicator first. Every group of transfers has a deadline
// from when it could begin, the watchdog; time in which progress() was not called does not count. The first
// error ends the pipe. One thread.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "transport/nccl_comm.h"
#include "transport/nccl_graphs.h"
#include "transport/nccl_memory.h"

namespace guildhall {

class NcclPipe {
 public:
  struct Transfer {
    bool is_send = false;
    int rank = 0;
    size_t bytes = 0;          // of the frame
    size_t wire_bytes = 0;     // what both ends let it take
    NcclMemory::Buffer frame;  // pinned
    uint64_t tag = 0;          // the caller's
  };

  // Borrowed: device_memory, graphs.
  static Result<std::unique_ptr<NcclPipe>> open(std::shared_ptr<NcclComm> comm, NcclMemory& device_memory,
                                                std::chrono::nanoseconds deadline, NcclGraphUse& graphs);
  ~NcclPipe();

  // Whether the communicator is there. An error is the pipe's end.
  Result<bool> joined();
  // One NCCL group; at most one transfer per rank. Before joined() the caller's fault.
  void start(std::vector<Transfer> group) { queued_.push_back({.transfers = std::move(group)}); }
  // Moves things on; appends what is through to `done`, in order. An error is the pipe's end.
  Result<void> progress(std::vector<Transfer>& done);
  bool busy() const { return !queued_.empty() || !running_.empty(); }

  // For ncclCommShrink: stops what runs. Nothing else but comm() may be called then.
  Result<void> revoke();
  const std::shared_ptr<NcclComm>& comm() const { return comm_; }

 private:
  struct Group {
    std::vector<Transfer> transfers;
    std::vector<NcclMemory::Buffer> staged;      // device memory, by transfer
    std::shared_ptr<NcclGraphs::Record> record;  // that it goes by, or that is made of it
    OwnedEvent finished;                         // recorded behind everything
    bool launched = false;                       // NCCL has put it on the stream
  };

  NcclPipe(std::shared_ptr<NcclComm> comm, NcclMemory& device_memory, std::chrono::nanoseconds deadline,
           NcclGraphUse& graphs)
      : comm_(std::move(comm)), device_memory_(device_memory), deadline_(deadline), graphs_(graphs) {}
  Result<void> take_finished(std::vector<Transfer>& done);
  Result<void> issue(Group& group);
  Result<void> issue_alone(Group& group);
  Result<void> record(Group& group);
  Result<void> repeat(Group& group);
  Result<void> settle(Group& group);
  Result<void> enqueue(const Group& group);
  Result<void> copy_in(const Group& group);
  Result<void> finish_launch(Group& group);
  Result<OwnedEvent> take_event();
  Result<void> order(const OwnedStream& first, const OwnedStream& second);  // second waits for first

  const std::shared_ptr<NcclComm> comm_;
  NcclMemory& device_memory_;
  const std::chrono::nanoseconds deadline_;
  NcclGraphs graphs_;
  OwnedStream stream_, copy_stream_;  // of the communicator; of copies
  OwnedEvent ordering_;
  std::vector<OwnedEvent> idle_events_;
  std::deque<Group> queued_;        // not with NCCL yet
  std::deque<Group> running_;       // the last one may not be launched yet
  Clock::time_point head_since_{};  // when running_'s first could begin
  Clock::time_point last_look_ = Clock::now();
};

}  // namespace guildhall
