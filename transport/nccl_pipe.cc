// nccl_pipe.cc: see the header.
#include "transport/nccl_pipe.h"

#include <fmt/format.h>

#include "base/units.h"

namespace guildhall {

Result<std::unique_ptr<NcclPipe>> NcclPipe::open(std::shared_ptr<NcclComm> comm, NcclMemory& device_memory,
                                                 std::chrono::nanoseconds deadline, NcclGraphUse& graphs) {
  std::unique_ptr<NcclPipe> self(new NcclPipe(std::move(comm), device_memory, deadline, graphs));
  GH_ASSIGN(self->stream_, make_stream());
  GH_ASSIGN(self->copy_stream_, make_stream());
  GH_ASSIGN(self->ordering_, make_event());
  return self;
}

// Buffers may go back only when no stream uses them. An aborted or revoked communicator lets its stream run
// out.
NcclPipe::~NcclPipe() {
  graphs_.abandon(stream_.get());
  for (Group& group : running_) group.record.reset();
  graphs_.clear();
  comm_->abort();
  for (const OwnedStream* stream : {&stream_, &copy_stream_})
    if (*stream) cudaStreamSynchronize(stream->get());
}

Result<bool> NcclPipe::joined() { return comm_->settled(); }

// Records go first: they hold on to the communicator, and may not be launched once it is over.
Result<void> NcclPipe::revoke() {
  graphs_.abandon(stream_.get());
  for (Group& group : running_) group.record.reset();
  graphs_.clear();
  return comm_->revoke();
}

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
  const Result<bool> settled = comm_->settled();
  if (settled.has_error()) {
    graphs_.give_up();
    return settled.error();
  }
  GH_TRY(take_finished(done));  // their records are free for those that are issued now
  if (*settled) {
    if (!running_.empty() && !running_.back().launched) GH_TRY(settle(running_.back()));
    if (!queued_.empty() && (running_.empty() || running_.back().launched)) {
      if (running_.empty()) head_since_ = Clock::now();
      running_.push_back(std::move(queued_.front()));
      queued_.pop_front();
      GH_TRY(issue(running_.back()));
    }
  }
  GH_TRY(take_finished(done));
  if (!running_.empty() && Clock::now() - head_since_ > deadline_)
    return Status{Code::deadline_exceeded,
                  fmt::format("nccl: {} {} rank {} not through within {} (transport.nccl.deadline)",
                              running_.front().transfers.front().is_send ? "a send" : "a receive",
                              running_.front().transfers.front().is_send ? "to" : "from",
                              running_.front().transfers.front().rank, format_duration(deadline_))};
  return {};
}

Result<void> NcclPipe::take_finished(std::vector<Transfer>& done) {
  while (!running_.empty() && running_.front().launched) {
    const cudaError_t state = cudaEventQuery(running_.front().finished.get());
    if (state == cudaErrorNotReady) break;
    GH_TRY(check_cuda(state, "cudaEventQuery"));
    for (Transfer& transfer : running_.front().transfers) done.push_back(std::move(transfer));
    if (running_.front().record) running_.front().record->in_use = false;
    idle_events_.push_back(std::move(running_.front().finished));
    running_.pop_front();
    head_since_ = Clock::now();
  }
  return {};
}

Result<void> NcclPipe::issue(Group& group) {
  NcclGraphs::Shape shape;
  for (const Transfer& transfer : group.transfers)
    shape.push_back({transfer.is_send, transfer.rank, transfer.wire_bytes});
  GH_ASSIGN(group.record, graphs_.take(shape, device_memory_));
  if (!group.record) return issue_alone(group);
  group.staged = group.record->staged;
  return group.record->executable == nullptr ? record(group) : repeat(group);
}

// Without a record.
Result<void> NcclPipe::issue_alone(Group& group) {
  group.record.reset();
  group.staged.clear();
  for (const Transfer& transfer : group.transfers) {
    GH_ASSIGN(NcclMemory::Buffer staged, device_memory_.take(transfer.wire_bytes));
    group.staged.push_back(std::move(staged));
  }
  GH_TRY(copy_in(group));
  GH_TRY(enqueue(group));
  GH_ASSIGN(const bool settled, comm_->settled());
  return settled ? finish_launch(group) : Result<void>{};
}

// Its operations become a record. Nothing of it runs before NCCL has put them all on the stream.
Result<void> NcclPipe::record(Group& group) {
  if (!graphs_.begin(stream_.get())) return issue_alone(group);
  const Result<void> enqueued = enqueue(group);
  if (enqueued.has_error()) graphs_.give_up();
  return enqueued;
}

Result<void> NcclPipe::repeat(Group& group) {
  GH_TRY(copy_in(group));
  return graphs_.launch(*group.record, stream_.get()) ? finish_launch(group) : issue_alone(group);
}

// NCCL has put the group on the stream, or into its record.
Result<void> NcclPipe::settle(Group& group) {
  if (!graphs_.recording()) return finish_launch(group);
  return graphs_.end(stream_.get(), *group.record) ? repeat(group) : issue_alone(group);
}

Result<void> NcclPipe::enqueue(const Group& group) {
  std::vector<NcclComm::Operation> operations;
  for (size_t i = 0; i < group.transfers.size(); ++i) {
    const Transfer& transfer = group.transfers[i];
    operations.push_back({transfer.is_send, group.staged[i].get(), transfer.wire_bytes, transfer.rank});
  }
  return comm_->issue(operations, stream_.get());
}

Result<void> NcclPipe::copy_in(const Group& group) {
  bool sends = false;
  for (size_t i = 0; i < group.transfers.size(); ++i) {
    const Transfer& transfer = group.transfers[i];
    if (!transfer.is_send) continue;
    sends = true;
    GH_TRY(check_cuda(cudaMemcpyAsync(group.staged[i].get(), transfer.frame.get(), transfer.bytes,
                                      cudaMemcpyHostToDevice, copy_stream_.get()),
                      "cudaMemcpyAsync"));
  }
  return sends ? order(copy_stream_, stream_) : Result<void>{};
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
