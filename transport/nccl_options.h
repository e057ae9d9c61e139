// nccl_options.h: what the configuration says about NCCL. Needs no CUDA header, so that a build without NCCL
// knows what to refuse.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "base/status.h"
#include "proto/exchange.h"

namespace guildhall {

class Exchange;

struct NcclOptions {
  bool is_hub = false;  // makes communicators and invites its peers: routers
  int device = 0;       // CUDA device whose memory frames pass through
  // Smaller frames go with the signal that would announce them.
  size_t min_frame_bytes = 16 << 10;
  // Up to this, frames that go together take the same power of two on the wire, and groups of one shape are
  // recorded as a CUDA graph. 0: never.
  size_t graph_frame_bytes = 1 << 20;
  size_t max_frame_bytes = kMaxFrameBytes;  // larger ones are refused, and their link dropped
  // For one operation. Beyond it the communicator is given up, and what it carried is sent again.
  std::chrono::nanoseconds deadline = std::chrono::seconds(2);
  // For a communicator to come up; who has not even answered by then is left out for as long again.
  std::chrono::nanoseconds join_deadline = std::chrono::seconds(30);
  // From the last change of who is there to the next communicator, so that a start makes one, not many.
  std::chrono::nanoseconds settle = std::chrono::milliseconds(200);
};

// `signals` carries what is small or announces. In the library guildhall_nccl, which not every build has:
// callers get it through ExchangeOptions::open_nccl.
Result<std::unique_ptr<Exchange>> open_nccl_exchange(const NcclOptions& options,
                                                     std::unique_ptr<Exchange> signals);
using OpenNccl = decltype(&open_nccl_exchange);

}  // namespace guildhall
