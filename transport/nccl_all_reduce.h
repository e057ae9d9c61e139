// nccl_all_reduce.h: the sum over all ranks of a communicator, for tensor parallelism: in place, in stream
// order, with the watchdog that the exchange has. A rank that dies makes it fail within the deadline, never
// hang. One thread.
//
// NCCL documents no order of the sum; the bits are the same on every rank.
#pragma once

#include <chrono>
#include <deque>
#include <memory>

#include "base/clock.h"
#include "transport/nccl_comm.h"
#include "transport/nccl_memory.h"

namespace guildhall {

enum class ReduceType { f32, bf16 };

class NcclAllReduce {
 public:
  struct Options {
    UniqueIdBytes id{};  // one rank's make_unique_id(), given to all
    int rank = 0, num_ranks = 1;
    std::chrono::nanoseconds join_deadline = std::chrono::seconds(30);
    std::chrono::nanoseconds deadline = std::chrono::seconds(2);  // for one sum
  };
  // Waits until all ranks are there, or join_deadline is over.
  static Result<std::unique_ptr<NcclAllReduce>> open(const Options& options);
  ~NcclAllReduce();

  // Enqueues data[0, count) = sum of the ranks' data; device memory, of the same count on all ranks.
  Result<void> enqueue(void* data, size_t count, ReduceType type, cudaStream_t stream);
  // To be called while sums are under way: notices errors and what is late. After an error the communicator
  // is aborted: its streams run on, and what it was summing is void.
  Result<void> watch();
  size_t num_under_way() const { return under_way_.size(); }

 private:
  NcclAllReduce(const Options& options, std::unique_ptr<NcclComm> comm)
      : options_(options), comm_(std::move(comm)) {}
  Result<void> settle(std::chrono::nanoseconds limit, const char* what);
  Status fail(Status why);

  const Options options_;
  std::unique_ptr<NcclComm> comm_;  // none after an error
  std::deque<OwnedEvent> under_way_, idle_;
  Clock::time_point head_since_{};
};

}  // namespace guildhall
