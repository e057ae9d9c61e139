// nccl_all_reduce.cc: see the header.
#include "transport/nccl_all_reduce.h"

#include <fmt/format.h>

#include <thread>

#include "base/units.h"

namespace guildhall {

Result<std::unique_ptr<NcclAllReduce>> NcclAllReduce::open(const Options& options) {
  GH_ASSIGN(auto comm, NcclComm::join(options.id, options.num_ranks, options.rank));
  std::unique_ptr<NcclAllReduce> self(new NcclAllReduce(options, std::move(comm)));
  GH_TRY(self->settle(options.join_deadline, "joining its ranks"));
  return self;
}

NcclAllReduce::~NcclAllReduce() = default;

// NCCL takes a moment on a thread of its own, with a non-blocking communicator.
Result<void> NcclAllReduce::settle(std::chrono::nanoseconds limit, const char* what) {
  const auto give_up = Clock::now() + limit;
  for (int tries = 0;; ++tries) {
    const Result<bool> settled = comm_->settled();
    if (settled.has_error()) return fail(settled.error());
    if (*settled) return {};
    if (Clock::now() > give_up)
      return fail({Code::deadline_exceeded,
                   fmt::format("nccl: all-reduce: {} took longer than {}", what, format_duration(limit))});
    if (tries > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

Status NcclAllReduce::fail(Status why) {
  comm_.reset();  // ends what runs, so that its streams go on
  under_way_.clear();
  return why;
}

Result<void> NcclAllReduce::enqueue(void* data, size_t count, ReduceType type, cudaStream_t stream) {
  if (!comm_) return Status{Code::unavailable, "nccl: all-reduce: its communicator has failed; open another"};
  const ncclDataType_t nccl_type = type == ReduceType::f32 ? ncclFloat32 : ncclBfloat16;
  if (const auto begun = comm_->all_reduce(data, count, nccl_type, stream); begun.has_error())
    return fail(begun.error());
  GH_TRY(settle(options_.deadline, "starting"));
  if (idle_.empty()) {
    GH_ASSIGN(OwnedEvent event, make_event());
    idle_.push_back(std::move(event));
  }
  GH_TRY(check_cuda(cudaEventRecord(idle_.front().get(), stream), "cudaEventRecord"));
  if (under_way_.empty()) head_since_ = Clock::now();
  under_way_.push_back(std::move(idle_.front()));
  idle_.pop_front();
  return {};
}

Result<void> NcclAllReduce::watch() {
  if (!comm_) return Status{Code::unavailable, "nccl: all-reduce: its communicator has failed; open another"};
  const Result<bool> settled = comm_->settled();
  if (settled.has_error()) return fail(settled.error());
  while (!under_way_.empty()) {
    const cudaError_t state = cudaEventQuery(under_way_.front().get());
    if (state == cudaErrorNotReady) break;
    GH_TRY(check_cuda(state, "cudaEventQuery"));
    idle_.push_back(std::move(under_way_.front()));
    under_way_.pop_front();
    head_since_ = Clock::now();
  }
  if (!under_way_.empty() && Clock::now() - head_since_ > options_.deadline)
    return fail(
        {Code::deadline_exceeded, fmt::format("nccl: all-reduce: not through within {}: a rank is late",
                                              format_duration(options_.deadline))});
  return {};
}

}  // namespace guildhall
