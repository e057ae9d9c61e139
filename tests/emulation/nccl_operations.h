// nccl_operations.h: what one rank of a stand-in communicator does in its stream: send, receive, reduce, each
// by steps that never wait.
#pragma once

#include <nccl.h>

#include <vector>

#include "tests/emulation/nccl_shared.h"

namespace guildhall::emulation {

struct RankView {
  SharedComm* shared;
  int rank, num_ranks;
};

struct NcclOperation {
  enum class Kind { send, receive, all_reduce } kind;
  std::byte* data = nullptr;
  const std::byte* from = nullptr;  // all_reduce
  size_t bytes = 0;
  ncclDataType_t type = ncclUint8;
  int peer = 0;
  uint64_t number = 0;  // of this message between the two; all_reduce: of its first slice

  size_t at = 0;  // bytes done
  bool begun = false, done = false;

  // What can be done now. Not ncclSuccess: it can never be done.
  ncclResult_t advance(const RankView& me);
  static uint64_t num_slices(size_t bytes) { return (bytes + kRingBytes - 1) / kRingBytes; }

 private:
  void advance_send(const RankView& me);
  ncclResult_t advance_receive(const RankView& me);
  void advance_all_reduce(const RankView& me);
};

}  // namespace guildhall::emulation
