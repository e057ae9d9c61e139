// nccl_pipe.cc: see the header.
#include "transport/nccl_pipe.h"

#include <fmt/format.h>

#include "base/units.h"

namespace guildhall {

Result<std::unique_ptr<NcclPipe>> NcclPipe::open(std::shared_ptr<NcclComm> comm, NcclMemory& device_memory,
                                                 std::chrono::nanoseconds deadline) {
  std::unique_ptr<NcclPipe> self(new NcclPipe(std::move(comm), device_memory, deadline));
  GH_ASSIGN(self->stream_, make_stream());
  GH_ASSIGN(self->copy_stream_, make_stream());
  GH_ASSIGN(self->ordering_, make_event());
  return self;
}

// Buffers may go back only when no stream uses them. An aborted or revoked communicator lets its stream run
// out.
NcclPipe::~NcclPipe() {
  comm_->abort();
  for (const OwnedStream* stream : {&stream_, &copy_stream_})
    if (*stream) cudaStreamSynchronize(stream->get());
}

Result<bool> NcclPipe::joined() { return comm_->settled(); }

Result<void> NcclPipe::revoke() { return comm_->revoke(); }

Result<OwnedEvent> NcclPipe::take_event() {
  if (idle_events_.empty()) return make_event();
  OwnedEvent event = std::move(idle_events_.back());
  idle_events_.pop_back();
  return event;
}

Result<void> NcclPipe::order(const OwnedStream& first, const OwnedStream& second) {
  GH_TRY(check_cuda(cudaEventRecord(ordering_.get(), first.get()), "cudaEventRecord"));
  return check_cuda(cudaStreamWaitEvent(second.get(), ordering_.get(), 0), "cudaStreamWaitEvent");
}

Result<void> NcclPipe::progress(std::vector<Transfer>& done) {
  const auto now = Clock::now();
  if (now - last_look_ > deadline_ / 8) head_since_ += now - last_look_;
  last_look_ = now;
  GH_ASSIGN(const bool settled, comm_->settled());
  if (settled) {
    if (!running_.empty() && !running_.back().launched) GH_TRY(finish_launch(running_.back()));
    if (!queued_.empty()) {
      if (running_.empty()) head_since_ = Clock::now();
      running_.push_back(std::move(queued_.front()));
      queued_.pop_front();
      GH_TRY(issue(running_.back()));
    }
  }
  while (!running_.empty() && running_.front().launched) {
    const cudaError_t state = cudaEventQuery(running_.front().finished.get());
    if (state == cudaErrorNotReady) break;
    GH_TRY(check_cuda(state, "cudaEventQuery"));
    for (Transfer& transfer : running_.front().transfers) done.push_back(std::move(transfer));
    idle_events_.push_back(std::move(running_.front().finished));
    running_.pop_front();
    head_since_ = Clock::now();
  }
  if (!running_.empty() && Clock::now() - head_since_ > deadline_)
    return Status{Code::deadline_exceeded,
                  fmt::format("nccl: {} {} rank {} not through within {} (transport.nccl.deadline)",
                              running_.front().transfers.front().is_send ? "a send" : "a receive",
                              running_.front().transfers.front().is_send ? "to" : "from",
                              running_.front().transfers.front().rank, format_duration(deadline_))};
  return {};
}

Result<void> NcclPipe::issue(Group& group) {
  std::vector<NcclComm::Operation> operations;
  bool sends = false;
  for (const Transfer& transfer : group.transfers) {
    GH_ASSIGN(NcclMemory::Buffer staged, device_memory_.take(transfer.bytes));
    if (transfer.is_send)
      GH_TRY(check_cuda(cudaMemcpyAsync(staged.get(), transfer.frame.get(), transfer.bytes,
                                        cudaMemcpyHostToDevice, copy_stream_.get()),
                        "cudaMemcpyAsync"));
    sends |= transfer.is_send;
    operations.push_back({transfer.is_send, staged.get(), bucket_bytes(transfer.bytes), transfer.rank});
    group.staged.push_back(std::move(staged));
  }
  if (sends) GH_TRY(order(copy_stream_, stream_));
  GH_TRY(comm_->issue(operations, stream_.get()));
  GH_ASSIGN(const bool settled, comm_->settled());
  return settled ? finish_launch(group) : Result<void>{};
}

// Only now do its operations stand in the stream, for others to be ordered behind them.
Result<void> NcclPipe::finish_launch(Group& group) {
  GH_ASSIGN(group.finished, take_event());
  bool receives = false;
  for (const Transfer& transfer : group.transfers) receives |= !transfer.is_send;
  if (receives) GH_TRY(order(stream_, copy_stream_));
  for (size_t i = 0; i < group.transfers.size(); ++i)
    if (const Transfer& transfer = group.transfers[i]; !transfer.is_send)
      GH_TRY(check_cuda(cudaMemcpyAsync(transfer.frame.get(), group.staged[i].get(), transfer.bytes,
                                        cudaMemcpyDeviceToHost, copy_stream_.get()),
                        "cudaMemcpyAsync"));
  const OwnedStream& last = receives ? copy_stream_ : stream_;
  GH_TRY(check_cuda(cudaEventRecord(group.finished.get(), last.get()), "cudaEventRecord"));
  group.launched = true;
  return {};
}

}  // namespace guildhall
