// nccl_comm.h: one non-blocking NCCL communicator. Nothing here waits: what NCCL has begun is asked after by
// settled(), and until that says true no other call may be made. Its end aborts what still runs; it never
// calls ncclCommDestroy, which after a peer's death may wait for ever. One thread.
#pragma once

#include <nccl.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "transport/nccl_signal.h"

namespace guildhall {

Result<UniqueIdBytes> make_unique_id();

class NcclComm {
 public:
  static Result<std::unique_ptr<NcclComm>> join(const UniqueIdBytes& id, int num_ranks, int rank);
  // What is left of `parent`, which must be revoked, without `excluded`. Every rank that stays calls it.
  static Result<std::unique_ptr<NcclComm>> shrink(std::shared_ptr<NcclComm> parent,
                                                  std::vector<int> excluded);
  ~NcclComm();

  // False: what was begun is under way. An error is the communicator's end, but for abort.
  Result<bool> settled();
  // What runs here ends, unfinished; settled() says when.
  Result<void> revoke();
  void abort();  // likewise, and nothing else may be called

  struct Operation {
    bool is_send = false;
    std::byte* data = nullptr;  // device memory
    size_t bytes = 0;
    int rank = 0;
  };
  // All of them at once, in stream order. Enqueued on the stream when settled() says so.
  Result<void> issue(std::span<const Operation> operations, cudaStream_t stream);
  // sum over the ranks, in place. The same bits on every rank.
  Result<void> all_reduce(void* data, size_t count, ncclDataType_t type, cudaStream_t stream);

 private:
  NcclComm() = default;
  Result<void> begun(ncclResult_t result, const char* call);  // success and in progress are both well

  ncclComm_t comm_ = nullptr;         // NCCL writes a child's here when it is there, from a thread of its own
  std::shared_ptr<NcclComm> parent_;  // until then
  std::vector<int> excluded_;         // NCCL may read it until then
};

}  // namespace guildhall
