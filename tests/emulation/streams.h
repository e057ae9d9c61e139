// streams.h: the emulated streams, events and graphs behind include/cuda_runtime.h.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "tests/emulation/emulator.h"

// What was captured, in the order in which it was enqueued: one of the orders that the graph allows.
struct CUgraph_st {
  std::vector<guildhall::emulation::Operation> operations;
  std::set<CUstream_st*> streams;  // that take part in the capture
};
struct CUgraphExec_st {
  std::vector<guildhall::emulation::Operation> operations;
};
struct CUstream_st {
  std::deque<guildhall::emulation::Operation> pending;
  CUgraph_st* capture = nullptr;
};
struct CUevent_st {
  // Shared with the operations that record and await it, which may outlive the event.
  struct Records {
    uint64_t asked = 0, done = 0;
  };
  std::shared_ptr<Records> records = std::make_shared<Records>();
  CUgraph_st* capture = nullptr;  // recorded in this capture last
};

namespace guildhall::emulation {

std::recursive_mutex& lock();

CUstream_st* stream_or_default(CUstream_st* stream);
void add_stream(CUstream_st* stream);
void remove_stream(CUstream_st* stream);

// Tries the next operation of streams in turn until `done`; the lock is released between tries.
void run_until(const std::function<bool()>& done);
// Tries the next operation of a few streams.
void run_some();
bool all_idle();

}  // namespace guildhall::emulation
