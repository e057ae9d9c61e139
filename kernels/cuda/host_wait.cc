#include "kernels/cuda/host_wait.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace guildhall {
namespace {

std::atomic<uint64_t> num_waits{0};
thread_local int num_recordings = 0;

}  // namespace

HostWait::HostWait(const char* what) : span_(what) {
  GraphRecording::refuse(what);
  num_waits.fetch_add(1, std::memory_order_relaxed);
}

uint64_t HostWait::num_so_far() { return num_waits.load(std::memory_order_relaxed); }

GraphRecording::GraphRecording() { ++num_recordings; }
GraphRecording::~GraphRecording() { --num_recordings; }

void GraphRecording::refuse(const char* what) {
  if (num_recordings == 0) [[likely]]
    return;
  std::fprintf(stderr, "%s: while a graph is recorded; it must be done or reserved before\n", what);
  std::abort();
}

}  // namespace guildhall
