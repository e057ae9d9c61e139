// streams.h: the emulated streams, events and graphs behind include/cuda_runtime.h.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "tests/emulation/emulator.h"

namespace guildhall::emulation {
// What a captured operation is at one launch of its graph; called at the launch.
using MakeOperation = std::function<Operation()>;
}  // namespace guildhall::emulation

// What was captured, in the order in which it was enqueued: one of the orders that the graph allows.
struct CUgraph_st {
  std::vector<guildhall::emulation::MakeOperation> operations;
  std::set<CUstream_st*> streams;  // that take part in the capture
};
struct CUgraphExec_st {
  std::vector<guildhall::emulation::MakeOperation> operations;
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

// An operation that has a state of its own: made now, or, under capture, at each launch of the graph.
void enqueue_made(CUstream_st* stream, const MakeOperation& make);
bool is_capturing(CUstream_st* stream);
// Graphs cannot be instantiated from now on, or can again.
void refuse_graphs(bool refuse);
bool graphs_refused();

CUstream_st* stream_or_default(CUstream_st* stream);
void add_stream(CUstream_st* stream);
void remove_stream(CUstream_st* stream);

// Tries the next operation of streams in turn until `done`; the lock is released between tries.
void run_until(const std::function<bool()>& done);
// Tries the next operation of a few streams.
void run_some();
bool all_idle();

}  // namespace guildhall::emulation
