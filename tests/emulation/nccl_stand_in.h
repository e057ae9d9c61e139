// nccl_stand_in.h: NCCL for one host without a GPU: ranks are threads or processes, what they share lies in
// POSIX shared memory that the unique id names, and operations run in the emulated streams.
//
// As strict as NCCL may be: a send ends only when its receive has taken everything, a communicator's
// operations run one group after another whatever their streams, a size that differs between the two sides is
// an error, a non-blocking call is under way for a few looks, and nobody is told of a peer that dies.
// Operations may be captured into graphs; one that outlives its communicator, or is launched when that is
// over, ends the process.
#pragma once

#include <nccl.h>

namespace guildhall::emulation {

// For every communicator of this process, from now on.
struct NcclFaults {
  int fail_after = 0;  // the nth group issued from now on ends its communicator with ncclSystemError; 0: none
  int stall_after = 0;         // the nth never moves, nor what is behind it; 0: none
  bool refuse_shrink = false;  // ncclCommShrink fails
  bool never_join = false;     // communicators stay under way
};
void set_nccl_faults(const NcclFaults& faults);

}  // namespace guildhall::emulation
