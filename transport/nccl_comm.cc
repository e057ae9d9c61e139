// nccl_comm.cc: see the header.
#include "transport/nccl_comm.h"

#include <fmt/format.h>

#include <cstring>

namespace guildhall {
namespace {

Status nccl_error(ncclResult_t result, const char* call, ncclComm_t comm) {
  const char* detail = ncclGetLastError(comm);
  return {Code::unavailable, fmt::format("nccl: {}: {}{}{}", call, ncclGetErrorString(result),
                                         detail && *detail ? ": " : "", detail ? detail : "")};
}

ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

}  // namespace

Result<UniqueIdBytes> make_unique_id() {
  ncclUniqueId id;
  static_assert(sizeof id == sizeof(UniqueIdBytes));
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
    return nccl_error(result, "ncclGetUniqueId", nullptr);
  UniqueIdBytes bytes;
  std::memcpy(bytes.data(), &id, sizeof id);
  return bytes;
}

Result<std::unique_ptr<NcclComm>> NcclComm::join(const UniqueIdBytes& bytes, int num_ranks, int rank) {
  ncclUniqueId id;
  std::memcpy(&id, bytes.data(), sizeof id);
  ncclConfig_t config = non_blocking();
  std::unique_ptr<NcclComm> self(new NcclComm);
  GH_TRY(self->begun(ncclCommInitRankConfig(&self->comm_, num_ranks, id, rank, &config),
                     "ncclCommInitRankConfig"));
  return self;
}

Result<std::unique_ptr<NcclComm>> NcclComm::shrink(std::shared_ptr<NcclComm> parent,
                                                   std::vector<int> excluded) {
  ncclConfig_t config = non_blocking();
  std::unique_ptr<NcclComm> self(new NcclComm);
  self->parent_ = std::move(parent);
  self->excluded_ = std::move(excluded);
  GH_TRY(self->parent_->begun(
      ncclCommShrink(self->parent_->comm_, self->excluded_.data(), static_cast<int>(self->excluded_.size()),
                     &self->comm_, &config, NCCL_SHRINK_DEFAULT),
      "ncclCommShrink"));
  return self;
}

NcclComm::~NcclComm() { abort(); }

// The parent first: what runs in it may still write our handle.
void NcclComm::abort() {
  if (parent_) parent_->abort();
  if (ncclComm_t comm = std::exchange(comm_, nullptr)) ncclCommAbort(comm);
}

Result<void> NcclComm::begun(ncclResult_t result, const char* call) {
  if (result == ncclSuccess || result == ncclInProgress) return {};
  return nccl_error(result, call, comm_);
}

Result<bool> NcclComm::settled() {
  if (parent_) {
    GH_ASSIGN(const bool done, parent_->settled());
    if (!done) return false;
    parent_.reset();
    if (!comm_) return Status{Code::unavailable, "nccl: ncclCommShrink gave no communicator"};
  }
  ncclResult_t state = ncclSuccess;
  if (const ncclResult_t result = ncclCommGetAsyncError(comm_, &state); result != ncclSuccess)
    return nccl_error(result, "ncclCommGetAsyncError", comm_);
  if (state == ncclInProgress) return false;
  if (state != ncclSuccess) return nccl_error(state, "communicator", comm_);
  return true;
}

Result<void> NcclComm::revoke() {
  return begun(ncclCommRevoke(comm_, NCCL_REVOKE_DEFAULT), "ncclCommRevoke");
}

Result<void> NcclComm::issue(std::span<const Operation> operations, cudaStream_t stream) {
  GH_TRY(begun(ncclGroupStart(), "ncclGroupStart"));
  Result<void> first_error;
  for (const Operation& o : operations) {
    const ncclResult_t result = o.is_send ? ncclSend(o.data, o.bytes, ncclUint8, o.rank, comm_, stream)
                                          : ncclRecv(o.data, o.bytes, ncclUint8, o.rank, comm_, stream);
    const Result<void> one = begun(result, o.is_send ? "ncclSend" : "ncclRecv");
    if (one.has_error() && !first_error.has_error()) first_error = one;
  }
  const Result<void> end = begun(ncclGroupEnd(), "ncclGroupEnd");  // also after an error: it closes the group
  return first_error.has_error() ? first_error : end;
}

Result<void> NcclComm::all_reduce(void* data, size_t count, ncclDataType_t type, cudaStream_t stream) {
  return begun(ncclAllReduce(data, data, count, type, ncclSum, comm_, stream), "ncclAllReduce");
}

}  // namespace guildhall
